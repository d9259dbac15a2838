"""Can the base policy be taught? Per decision, before any online run.

    python benchmarks/pocket_gate.py [--policy hero_pl:pocket-shop] [--tasks 100]

On held-out validation tasks, at item, colour and size decisions where the policy's own sampled action is wrong: the
probability of the right action under no hint and under each kind of hint. The gate: true diagnosis > its own diagnosis
> observation and reward only > no hint, and a constant "right" or a shuffled diagnosis no better than no hint.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from hero_pl.chat.actions import PlainText
from hero_pl.pocket.demonstrations import HINT
from hero_pl.pocket.reflector import ShopRules
from hero_pl.pocket.rules import Request, action, judge
from hero_pl.policy.base import Sampling, ScoreRow
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.reflection.controls import ShuffledReflector
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.rollout.collect import Collector, Draw, Limits
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.types import Diagnosis, Reflection, Trajectory


def probabilities(policy: HuggingFacePolicy, contexts: Sequence[tuple[int, ...]], labels: Sequence[str]) -> list[float]:
    """Probability of each label (and the end of the turn) after its context."""
    found: list[float] = []
    end = (int(policy.template.tokenizer.eos_token_id),)
    for first in range(0, len(contexts), 16):
        ids = [policy.template.encoder.outside(label) + end for label in labels[first : first + 16]]
        rows = [
            ScoreRow(c + a, ((len(c), len(c) + len(a)),))
            for c, a in zip(contexts[first : first + 16], ids, strict=False)
        ]
        with policy.sampling():
            log_q = policy.score(rows).log_softmax(-1)
        flat = log_q.gather(-1, torch.tensor([i for a in ids for i in a])[:, None])[:, 0]
        found += [float(part.sum().exp()) for part in flat.split([len(a) for a in ids])]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="hero_pl:pocket-shop")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy = HuggingFacePolicy(args.policy, parser=PlainText())
    policy.load()
    collector = Collector("hero_pl/WebShopPocket-v0", split="validation", limits=Limits(12, 128))
    ids = (collector.task_ids * (args.tasks // len(collector.task_ids) + 1))[: args.tasks]
    draws = [Draw(task, i, args.seed * 100_003 + i) for i, task in enumerate(ids)]
    played = collector.collect(draws, policy, Sampling(1.0, 12))
    truth = ShopRules().reflect(played, policy)
    own = SelfReflector(mode="continue", tokens_per_turn=16).reflect(played, policy)
    shuffled = ShuffledReflector(ShopRules(), seed=args.seed).reflect(played, policy)
    constant = [
        replace(
            r, diagnoses=tuple(d and Diagnosis(f"right: {clicked(t, i)}", "high") for i, d in enumerate(r.diagnoses))
        )
        for r, t in zip(truth, played, strict=False)
    ]
    full = HindsightTeacher(template=HINT, on_invalid="env_feedback")
    feedback = HindsightTeacher(template=HINT, include_diagnosis=False, on_invalid="env_feedback")
    plain = HindsightTeacher(template=HINT, include_action_target="never")
    text_only = HindsightTeacher(template=HINT, include_next_observation=False, include_reward=False)
    arms: dict[str, tuple[HindsightTeacher, list[Reflection]]] = {
        "true diagnosis": (full, truth),
        "its own diagnosis": (full, own),
        "true diagnosis, no target": (plain, truth),
        "observation and reward only": (feedback, truth),
        "shuffled diagnosis": (full, shuffled),
        "shuffled diagnosis alone": (text_only, shuffled),
        "constant 'right'": (full, constant),
    }
    places = [(i, j, label) for i, t in enumerate(played) for j, label in wrong_turns(t)]
    labels = [label for _, _, label in places]
    result = {"no hint": mean(probabilities(policy, [played[i].turns[j].prompt_ids for i, j, _ in places], labels))}
    for name, (teacher, reflections) in arms.items():
        hints = teacher.advise(played, reflections, policy)
        contexts = [
            policy.template.splice(played[i].turns[j].prompt_ids, hints[i][j].text if hints[i][j] else "")
            for i, j, _ in places
        ]
        result[name] = mean(probabilities(policy, contexts, labels))
    good = [
        own[i].diagnoses[j] is not None
        and own[i].diagnoses[j].next_action_target == truth[i].diagnoses[j].next_action_target
        for i, j, _ in places
    ]
    turns = sum(len(t.turns) for t in played)
    extra = {
        "wrong turns": len(places),
        "success at T=1": mean([t.reward >= 1.0 for t in played]),
        "own reviews: turns covered": sum(d is not None for r in own for d in r.diagnoses) / turns,
        "own reviews: right target on wrong turns": mean(good),
    }
    for name, value in {**result, **extra}.items():
        print(f"{name:45} {value:.3f}")
    order = [result[k] for k in ("true diagnosis", "its own diagnosis", "observation and reward only", "no hint")]
    passed = all(a > b for a, b in itertools.pairwise(order))
    print("gate:", "passed" if passed else "FAILED", "(true > own > observation and reward > none)")
    if args.out:
        args.out.write_text(json.dumps({**result, **extra, "passed": passed}, indent=2) + "\n")
    raise SystemExit(not passed)


def wrong_turns(trajectory: Trajectory) -> list[tuple[int, str]]:
    """``(index, right action)`` of the option turns that were not right."""
    request = Request.read(trajectory.first_observation)
    assert request is not None
    found, page = [], trajectory.first_observation
    for j, turn in enumerate(trajectory.turns):
        verdict = judge(request, page, turn.action, turn.observation)
        if verdict.kind != "right" and verdict.slot in ("item", "color", "size"):
            found.append((j, action(verdict.slot, verdict.right)))
        page = page if turn.malformed else turn.observation
    return found


def clicked(trajectory: Trajectory, j: int) -> str:
    return trajectory.turns[j].action.partition("[")[2].rstrip("]")


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


if __name__ == "__main__":
    main()
