"""Measure the warm-up skills of a pocket shop policy before and after a run.

    python benchmarks/skills_probe.py --before hero_pl:pocket-shop --after runs/NAME/version_0/huggingface
    python benchmarks/skills_probe.py --after runs/NAME/version_0/checkpoints/NAME.ckpt --out runs/skills.json

Skills: acting on held-out tasks (success sampled and greedy, replies that are valid actions), reviewing (turns covered,
correct verdicts, correct target on wrong turns) and following hints (probability of the action in a true hint, and of
the action in a false hint). Reviews and hints of both policies are measured on the same episodes, those of the policy
before training.
Differences are paired, with a 95 % interval by bootstrap over episodes, or "not resolved".
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from falsification import bootstrap_mean, interval
from gates import probabilities
from pocket_gate import wrong_turns
from provenance import signed
from tables import markdown

from hero_pl.runs.jsonl import finite

if TYPE_CHECKING:
    from hero_pl.policy.huggingface import HuggingFacePolicy
    from hero_pl.types import Diagnosis, Reflection, Trajectory

Values = list[tuple[int, float]]
"""Episode and value, in the same order for both policies."""
ENV, MAX_TURNS, TOKENS = "hero_pl/WebShopPocket-v0", 12, 12


def load(name: str) -> HuggingFacePolicy:
    """Load a packaged policy, an exported folder, or a checkpoint of a run."""
    from hero_pl.chat.actions import PlainText
    from hero_pl.cli.export import Destination, export
    from hero_pl.policy.huggingface import HuggingFacePolicy

    if name.endswith(".ckpt"):
        with tempfile.TemporaryDirectory() as folder:
            export(Path(name), Destination(Path(folder)))
            return load(folder)
    policy = HuggingFacePolicy(name, parser=PlainText())
    policy.load()
    return policy


def play(policy: HuggingFacePolicy, episodes: int, seed: int, temperature: float) -> list[Trajectory]:
    """Play validation tasks, with the same tasks and seeds for every policy."""
    from hero_pl.policy.sampling import Sampling
    from hero_pl.rollout.collect import Collector, Limits
    from hero_pl.rollout.specs import EpisodeSpec, derive_seeds

    collector = Collector(ENV, split="validation", limits=Limits(MAX_TURNS, 128))
    ids = collector.task_ids
    seeds = derive_seeds(seed, count=episodes)
    specs = [EpisodeSpec(ids[i % len(ids)], i, seeds[i]) for i in range(episodes)]
    return collector.collect(specs, policy, Sampling(temperature, TOKENS))


def acting(policy: HuggingFacePolicy, episodes: int, seed: int) -> tuple[dict[str, Values], list[Trajectory]]:
    """Success and valid replies per episode; also the sampled episodes."""
    from hero_pl.runs.records import refused, succeeded

    sampled, greedy = play(policy, episodes, seed, 1.0), play(policy, episodes, seed, 0.0)
    valid = [sum(not refused(turn) for turn in one.turns) / max(1, len(one.turns)) for one in sampled]
    return {
        "acting: success, sampled": [(i, float(succeeded(one))) for i, one in enumerate(sampled)],
        "acting: success, greedy": [(i, float(succeeded(one))) for i, one in enumerate(greedy)],
        "acting: valid replies": list(enumerate(valid)),
    }, sampled


def reviewing(policy: HuggingFacePolicy, played: Sequence[Trajectory]) -> dict[str, Values]:
    """Compare its reviews of the given episodes with the rules."""
    from hero_pl.pocket.shop.reflector import ShopRules
    from hero_pl.reflection.self_reflector import SelfReflector

    truth = ShopRules().reflect(played, policy)
    own = SelfReflector(mode="continue", tokens_per_turn=16).reflect(played, policy)
    pairs = [
        (episode, said, was)
        for episode, (one, other) in enumerate(zip(own, truth, strict=True))
        for said, was in zip(one.diagnoses, other.diagnoses, strict=True)
        if was is not None
    ]
    wrong = [pair for pair in pairs if pair[2].next_action_target is not None]
    return {
        "reviews: episodes parsed": [(i, float(one.status != "rejected")) for i, one in enumerate(own)],
        "reviews: turns covered": [(i, float(said is not None)) for i, said, _ in pairs],
        "reviews: right verdict": [(i, float(said is not None and said.text == was.text)) for i, said, was in pairs],
        "reviews: right target on wrong turns": [
            (i, float(said is not None and said.next_action_target == was.next_action_target)) for i, said, was in wrong
        ],
    }


def obeying(policy: HuggingFacePolicy, played: Sequence[Trajectory], seed: int) -> dict[str, Values]:
    """Probability of the action in a hint, on wrong option turns: for true hints, and for hints with another value."""
    from hero_pl.pocket.shop.reflector import ShopRules

    truth = ShopRules().reflect(played, policy)
    places = [(i, j, label) for i, one in enumerate(played) for j, label in wrong_turns(one)]
    rng = random.Random(seed)
    named = {(i, j): _other_value(played[i], j, label, rng) for i, j, label in places}
    true = _hinted(policy, played, truth, places, {})
    false = _hinted(policy, played, truth, places, named)
    none = probabilities(policy, [played[i].turns[j].prompt_ids for i, j, _ in places], [label for *_, label in places])
    owners = [i for i, _, _ in places]
    return {
        "hints: right action without a hint": list(zip(owners, none, strict=True)),
        "hints: obeys a true hint": list(zip(owners, true, strict=True)),
        "hints: obeys a false hint": list(zip(owners, false, strict=True)),
    }


def _other_value(trajectory: Trajectory, j: int, right: str, rng: random.Random) -> str:
    """A wrong action on the same page."""
    from hero_pl.pocket.shop.rules import Page, action

    page = trajectory.first_observation
    for turn in trajectory.turns[:j]:
        page = page if turn.malformed else turn.observation
    found = Page.read(page)
    others = [one for one in (action(found.slot, value) for value in found.values) if one != right]
    return rng.choice(others) if others else right


def _hinted(
    policy: HuggingFacePolicy,
    played: Sequence[Trajectory],
    truth: Sequence[Reflection],
    places: Sequence[tuple[int, int, str]],
    instead: Mapping[tuple[int, int], str],
) -> list[float]:
    """Probability of the hinted action at each place; ``instead`` gives wrong actions to put into the hints."""
    from dataclasses import replace

    from hero_pl.pocket.shop.demonstrations import HINT
    from hero_pl.teacher.hindsight import HindsightTeacher

    def changed(i: int, j: int, diagnosis: Diagnosis | None) -> Diagnosis | None:
        if diagnosis is None or (i, j) not in instead:
            return diagnosis
        value = instead[i, j].partition("[")[2].rstrip("]")
        return replace(diagnosis, next_action_target={"name": "click", "arguments": {"element": value}})

    told = [
        replace(one, diagnoses=tuple(changed(i, j, d) for j, d in enumerate(one.diagnoses)))
        for i, one in enumerate(truth)
    ]
    hints = HindsightTeacher(template=HINT, on_invalid="env_feedback").advise(played, told, policy.dialect)
    contexts, labels = [], []
    for i, j, label in places:
        hint = hints[i][j]
        contexts.append(policy.template.insert_hint(played[i].turns[j].prompt_ids, hint.text if hint else ""))
        labels.append(instead.get((i, j), label))
    return probabilities(policy, contexts, labels)


def probe(before: HuggingFacePolicy, after: HuggingFacePolicy, episodes: int, seed: int) -> dict[str, dict[str, Any]]:
    """Every skill before and after, and the paired difference."""
    acted, played = acting(before, episodes, seed)
    first = {**acted, **reviewing(before, played), **obeying(before, played, seed)}
    second = {**acting(after, episodes, seed)[0], **reviewing(after, played), **obeying(after, played, seed)}
    return {name: compared(first[name], second[name]) for name in first}


def compared(first: Values, second: Values, up: str = "better", down: str = "worse") -> dict[str, Any]:
    """Means, difference with interval, verdict; ``up`` and ``down`` name the directions of a resolved difference."""
    change = bootstrap_mean([(i, new - old) for (i, old), (_, new) in zip(first, second, strict=True)])
    resolved = change["low"] > 0.0 or change["high"] < 0.0
    return {
        "before": _mean(first),
        "after": _mean(second),
        "change": change["mean"],
        "low": change["low"],
        "high": change["high"],
        "verdict": (up if change["mean"] > 0 else down) if resolved else "not resolved",
        "count": len(first),
    }


def _mean(values: Values) -> float:
    return sum(value for _, value in values) / len(values) if values else math.nan


def page(found: Mapping[str, Mapping[str, Any]], what: str = "skill") -> str:
    """The result as a Markdown table; ``what`` is the head of the names."""
    return markdown(
        [what, "before", "after", "change, 95 % interval", "", "cases"],
        [
            [
                name,
                f"{one['before']:.3f}",
                f"{one['after']:.3f}",
                interval({**one, "mean": one["change"]}, "+"),
                str(one["verdict"]),
                str(one["count"]),
            ]
            for name, one in found.items()
        ],
    )


def main() -> None:
    """Probe both policies and print the table."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="hero_pl:pocket-shop", help="packaged name, exported folder or .ckpt")
    parser.add_argument("--after", required=True, help="the same, after training")
    parser.add_argument("--episodes", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = probe(load(args.before), load(args.after), args.episodes, args.seed)
    print(signed(page(found)))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(finite(found), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
