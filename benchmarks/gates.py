"""Check that a base policy responds to hints: common code of the gates of the pocket policies.

On held-out validation tasks, at turns where the policy's own sampled reply is wrong: the probability of the correct
reply without a hint and with each kind of hint. A gate is passed if true diagnosis > its own diagnosis > observation
and reward only > no hint, and a shuffled or a constant diagnosis is not better than no hint.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from provenance import commit

from hero_pl.evaluation.summary import summarize
from hero_pl.pocket.shop.demonstrations import HINT
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampling import Sampling
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.controls import ShuffledReflector
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.runs.jsonl import finite
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.hint_check.measure import reply_logprobs
from hero_pl.types import Diagnosis, Reflection, Trajectory, Turn

TOLERANCE = 0.02
"""Tolerance for noise: a shuffled or constant diagnosis may be better than no hint by this much."""
Place = tuple[int, int]
"""Trajectory and index of a turn."""


@dataclass(frozen=True)
class Task:
    """Settings of one gate."""

    policy: HuggingFacePolicy
    collector: Collector
    rules: Reflector
    wrong_turns: Callable[[Trajectory], list[tuple[int, str]]]
    """Index and correct reply of the wrong turns."""
    constant: Callable[[Turn], str]
    """The constant diagnosis, which calls every action right."""
    action_tokens: int
    tokens_per_turn: int


def arguments(words: str, default: str) -> argparse.Namespace:
    """The command line of a gate."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default=default)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    return args


def run(task: Task, args: argparse.Namespace, part: Callable[[str], bool] | None = None) -> bool:
    """Print the results, write them if requested, and return whether the gate is passed.

    Args:
        task: Settings of the gate.
        args: Arguments from :func:`arguments`.
        part: Selects correct replies that are also shown in a second column.
    """
    ids = (task.collector.task_ids * (args.tasks // len(task.collector.task_ids) + 1))[: args.tasks]
    specs = [EpisodeSpec(name, i, args.seed * 100_003 + i) for i, name in enumerate(ids)]
    played = task.collector.collect(specs, task.policy, Sampling(1.0, task.action_tokens))
    greedy = task.collector.collect(specs, task.policy, Sampling(0.0, task.action_tokens))
    found = [(i, j, label) for i, trajectory in enumerate(played) for j, label in task.wrong_turns(trajectory)]
    places, labels = [(i, j) for i, j, _ in found], [label for _, _, label in found]
    truth = task.rules.reflect(played, task.policy)
    own = SelfReflector(mode="continue", tokens_per_turn=task.tokens_per_turn).reflect(played, task.policy)
    columns = _columns(task, args.seed, played, truth, own, places, labels)
    result = {name: mean(values) for name, values in columns.items()}
    inside = [part(label) for label in labels] if part else None
    print(f"{'P(right reply) on turns that went wrong':45} {'all':>6}" + f" {'change':>7}" * bool(inside))
    for name, values in columns.items():
        alone = f" {mean(list(itertools.compress(values, inside))):7.3f}" if inside else ""
        print(f"{name:45} {mean(values):6.3f}{alone}")
    extra = {"wrong turns": len(places), **_scores(played, greedy), **_reviews(task, played, truth, own, places)}
    for name, value in extra.items():
        print(f"{name:45} {value:6.3f}")
    order = [result[k] for k in ("true diagnosis", "its own diagnosis", "observation and reward only", "no hint")]
    idle = max(result["shuffled diagnosis"], result["constant 'right'"])
    passed = all(a > b for a, b in itertools.pairwise(order)) and idle <= result["no hint"] + TOLERANCE
    print("gate:", "passed" if passed else "FAILED", "(true > own > feedback > none >= shuffled, constant)")
    if args.out:
        args.out.write_text(
            json.dumps(finite({**result, **extra, "passed": passed, "commit": commit()}), indent=2) + "\n"
        )
    return passed


def _columns(
    task: Task,
    seed: int,
    played: Sequence[Trajectory],
    truth: list[Reflection],
    own: list[Reflection],
    places: Sequence[Place],
    labels: Sequence[str],
) -> dict[str, list[float]]:
    """Probabilities of the correct replies, by kind of hint."""
    shuffled = ShuffledReflector(task.rules, seed=seed).reflect(played, task.policy)
    constant = [
        Reflection(tuple(Diagnosis(f"right: {task.constant(turn)}", "high") for turn in t.turns), "ok") for t in played
    ]
    full = HindsightTeacher(template=HINT, on_invalid="env_feedback")
    arms = {
        "true diagnosis": (full, truth),
        "its own diagnosis": (full, own),
        "true diagnosis, no target": (HindsightTeacher(template=HINT, include_action_target="never"), truth),
        "observation and reward only": (
            HindsightTeacher(template=HINT, include_diagnosis=False, on_invalid="env_feedback"),
            truth,
        ),
        "shuffled diagnosis": (full, shuffled),
        "shuffled diagnosis alone": (
            HindsightTeacher(template=HINT, include_next_observation=False, include_reward=False),
            shuffled,
        ),
        "constant 'right'": (full, constant),
    }
    prompts = [played[i].turns[j].prompt_ids for i, j in places]
    columns = {"no hint": probabilities(task.policy, prompts, labels)}
    for name, (teacher, reflections) in arms.items():
        hints = teacher.advise(played, reflections, task.policy.dialect)
        contexts = [
            task.policy.template.insert_hint(prompt, hint.text if (hint := hints[i][j]) else "")
            for prompt, (i, j) in zip(prompts, places, strict=True)
        ]
        columns[name] = probabilities(task.policy, contexts, labels)
    return columns


def _scores(played: list[Trajectory], greedy: list[Trajectory]) -> dict[str, float]:
    sampled = summarize(played)
    floor = {"success of doing nothing": sampled["do_nothing_floor"]} if "do_nothing_floor" in sampled else {}
    return {"success at T=1": sampled["success"], "success, greedy": summarize(greedy)["success"], **floor}


def _reviews(
    task: Task, played: list[Trajectory], truth: list[Reflection], own: list[Reflection], places: Sequence[Place]
) -> dict[str, float]:
    """Quality of the policy's own reviews."""
    wrong = [{j for j, _ in task.wrong_turns(trajectory)} for trajectory in played]
    targets = [[d.next_action_target if d else None for d in reflection.diagnoses] for reflection in own]
    wanted = [[d.next_action_target if d else None for d in reflection.diagnoses] for reflection in truth]
    return {
        "own reviews: turns covered": mean([d is not None for r in own for d in r.diagnoses]),
        "own reviews: right target on wrong turns": mean([targets[i][j] == wanted[i][j] for i, j in places]),
        "own reviews: right turns that are blamed": mean(
            [targets[i][j] is not None for i, t in enumerate(played) for j in range(len(t.turns)) if j not in wrong[i]]
        ),
        "own reviews: targets dropped as leaks": float(
            sum(code == "target_leak" for reflection in own for code, _ in reflection.issues)
        ),
    }


def probabilities(policy: HuggingFacePolicy, contexts: Sequence[tuple[int, ...]], labels: Sequence[str]) -> list[float]:
    """Probability of each label, including the end of the turn, after its context."""
    rows = [(context, policy.dialect.reply_ids(label)) for context, label in zip(contexts, labels, strict=True)]
    parts = (rows[first : first + 16] for first in range(0, len(rows), 16))
    return [math.exp(value) for part in parts for value in reply_logprobs(policy, part)]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
