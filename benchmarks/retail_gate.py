"""Check that a pocket retail base policy responds to hints, before an online run; see ``gates.py``.

    python benchmarks/retail_gate.py [--policy hero_pl:pocket-retail] [--tasks 200]

Uses all turns; a second column is for the change itself (item, reason and refund, whose mistakes no tool reports). The
exit status is 0 if the gate is passed.
"""

from __future__ import annotations

import gates

from hero_pl.pocket.retail.commands import RetailCommands
from hero_pl.pocket.retail.reflector import RetailRules, desks
from hero_pl.pocket.retail.rules import ACTS, ENV, ENV_ARGS, judge, read_call, short
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.types import Trajectory, Turn


def main() -> None:
    args = gates.arguments(__doc__ or "", "hero_pl:pocket-retail")
    policy = HuggingFacePolicy(args.policy, parser=RetailCommands())
    policy.load()
    collector = Collector(ENV, ENV_ARGS, split="validation", limits=Limits(12, 128))
    task = gates.Task(policy, collector, RetailRules(), wrong_turns, done, action_tokens=24, tokens_per_turn=24)
    raise SystemExit(not gates.run(task, args, part=lambda reply: reply.startswith(tuple(f"{act}[" for act in ACTS))))


def wrong_turns(trajectory: Trajectory) -> list[tuple[int, str]]:
    """``(index, correct reply)`` of the wrong turns."""
    parser = RetailCommands()
    return [
        (j, parser.write(desk.right()))
        for j, (desk, turn) in enumerate(zip(desks(trajectory), trajectory.turns, strict=True))
        if judge(desk, read_call(turn.action), turn.observation)[1] is not None
    ]


def done(turn: Turn) -> str:
    return short(read_call(turn.action))


if __name__ == "__main__":
    main()
