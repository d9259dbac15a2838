"""Estimate the success that training on feedback only can reach in the pocket shop, from frozen weights.

    python benchmarks/feedback_ceiling.py hero_pl:pocket-shop benchmarks/checkpoints/pocket-shop-b

For item, color and size decisions the script computes the probability of the correct action under a teacher that sees
the next observation and the reward, but no diagnosis; separately for each outcome. If a student is correct everywhere,
all its turns are of the first kind (correct, reward 1), and training moves it to the frozen teacher's probabilities for
these: the product over the three decisions is the success rate at which such training converges.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from falsification import bootstrap_mean, interval
from gates import probabilities
from provenance import signed
from skills_probe import load
from tables import markdown

from hero_pl.pocket.shop.demonstrations import HINT
from hero_pl.pocket.shop.rules import Shopper, Slot
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampling import Sampling
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.types import Reflection, Trajectory

SLOTS: tuple[Slot, ...] = ("item", "color", "size")
CASES = {
    "right, reward 1": (True, True),
    "right, reward below 1": (True, False),
    "wrong, reward below 1": (False, False),
}
"""Name -> whether the action was right, whether the episode succeeded."""
Asked = tuple[int, tuple[int, ...], str]
"""Episode, context with the hint, right action."""


def play(policy: HuggingFacePolicy, episodes: int) -> list[Trajectory]:
    """Play validation tasks at temperature 1."""
    collector = Collector("hero_pl/WebShopPocket-v0", split="validation", limits=Limits(12, 128))
    ids = (collector.task_ids * (episodes // len(collector.task_ids) + 1))[:episodes]
    return collector.collect([EpisodeSpec(name, i, i) for i, name in enumerate(ids)], policy, Sampling(1.0, 12))


def cases(policy: HuggingFacePolicy, played: Sequence[Trajectory]) -> dict[tuple[str, str], list[Asked]]:
    """Contexts with hint and correct actions, by slot and case."""
    teacher = HindsightTeacher(template=HINT, include_diagnosis=False, on_invalid="env_feedback")
    hints = teacher.advise(played, [Reflection((None,) * len(one.turns), "ok") for one in played], policy.dialect)
    found: dict[tuple[str, str], list[Asked]] = {(slot, case): [] for slot in SLOTS for case in CASES}
    for number, (episode, shown) in enumerate(zip(played, hints, strict=True)):
        situation = Shopper.open(episode.first_observation)
        assert situation is not None, "an episode of the pocket shop"
        for turn, hint in zip(episode.turns, shown, strict=True):
            slot, right = situation.slot, situation.right()
            was_right = situation.judge(turn.action, turn.text, turn.observation)[1] is None
            for case, kind in CASES.items():
                if slot in SLOTS and kind == (was_right, episode.reward == 1.0):
                    context = policy.template.insert_hint(turn.prompt_ids, hint.text if hint else "")
                    found[slot, case].append((number, context, policy.parser.write(right)))
            situation = situation.after(turn.action, turn.observation)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="+", help="packaged names, exported folders or .ckpt files")
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--out", type=Path, help="also write the table as Markdown")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in args.policies:
        policy = load(name)
        asked = cases(policy, play(policy, args.episodes))
        for case in CASES:
            cells, means = [], []
            for slot in SLOTS:
                parts = asked[slot, case]
                found = probabilities(policy, [context for _, context, _ in parts], [label for *_, label in parts])
                value = bootstrap_mean([(part[0], one) for part, one in zip(parts, found, strict=True)])
                means.append(value["mean"])
                cells.append(f"{interval(value, digits=2)}, {len(parts)}")
            rows.append([name.rpartition(":")[2], case, *cells, f"{math.prod(means):.2f}"])
    head = ["base policy", "what the teacher saw", *(f"P(right {slot}), turns" for slot in SLOTS), "product"]
    table = signed(markdown(head, rows))
    print(table)
    if args.out:
        args.out.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
