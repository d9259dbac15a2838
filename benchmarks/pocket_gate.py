"""Check that the base policies of the pocket shop respond to hints, before an online run; see ``gates.py``.

    python benchmarks/pocket_gate.py [--policy hero_pl:pocket-shop] [--tasks 200]

Uses item, color and size decisions. The exit status is 0 if the gate is passed.
"""

from __future__ import annotations

import gates

from hero_pl.chat.actions import PlainText
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.pocket.shop.rules import Request, action, judge
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.types import Trajectory, Turn


def main() -> None:
    args = gates.arguments(__doc__ or "", "hero_pl:pocket-shop")
    policy = HuggingFacePolicy(args.policy, parser=PlainText())
    policy.load()
    collector = Collector("hero_pl/WebShopPocket-v0", split="validation", limits=Limits(12, 128))
    task = gates.Task(policy, collector, ShopRules(), wrong_turns, clicked, action_tokens=12, tokens_per_turn=16)
    raise SystemExit(not gates.run(task, args))


def wrong_turns(trajectory: Trajectory) -> list[tuple[int, str]]:
    """``(index, correct action)`` of the wrong option turns."""
    request = Request.read(trajectory.first_observation)
    assert request is not None
    found, page = [], trajectory.first_observation
    for j, turn in enumerate(trajectory.turns):
        verdict = judge(request, page, turn.action, turn.observation)
        if verdict.kind != "right" and verdict.slot in ("item", "color", "size"):
            found.append((j, action(verdict.slot, verdict.right)))
        page = page if turn.malformed else turn.observation
    return found


def clicked(turn: Turn) -> str:
    return turn.action.partition("[")[2].rstrip("]")


if __name__ == "__main__":
    main()
