"""Can the retail base policy be taught? Per decision, before any online run.

    python benchmarks/retail_gate.py [--policy FOLDER] [--tasks 200]

On held-out validation tasks, at turns where the policy's own sampled reply is not the right one: the probability of
the right reply under no hint and under each kind of hint, over all such turns and over the change itself (item, reason
and refund, whose mistakes no tool names). The gate: true diagnosis > its own diagnosis > observation and reward only >
no hint, and a shuffled or a constant diagnosis no better than no hint. Whether the gate is passed is the exit status.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch
from pocket_gate import mean, probabilities

from hero_pl.callbacks.held_out import summarise
from hero_pl.pocket.demonstrations import HINT
from hero_pl.pocket.make_retail_tokenizer import ENV, ENV_ARGS
from hero_pl.pocket.retail_commands import RetailCommands
from hero_pl.pocket.retail_reflector import RetailRules, desks
from hero_pl.pocket.retail_rules import ACTS, judge, read_call, short
from hero_pl.policy.base import Sampling
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.reflection.controls import ShuffledReflector
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.rollout.collect import Collector, Draw, Limits
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.types import Diagnosis, Reflection, Trajectory

ACTION_TOKENS = 24
TOKENS_PER_TURN = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="hero_pl:pocket-retail")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy = HuggingFacePolicy(args.policy, parser=RetailCommands())
    policy.load()
    collector = Collector(ENV, ENV_ARGS, split="validation", limits=Limits(12, 128))
    ids = (collector.task_ids * (args.tasks // len(collector.task_ids) + 1))[: args.tasks]
    draws = [Draw(task, i, args.seed * 100_003 + i) for i, task in enumerate(ids)]
    played = collector.collect(draws, policy, Sampling(1.0, ACTION_TOKENS))
    greedy = collector.collect(draws, policy, Sampling(0.0, ACTION_TOKENS))
    truth = RetailRules().reflect(played, policy)
    own = SelfReflector(mode="continue", tokens_per_turn=TOKENS_PER_TURN).reflect(played, policy)
    shuffled = ShuffledReflector(RetailRules(), seed=args.seed).reflect(played, policy)
    constant = [
        Reflection(
            tuple(Diagnosis(f"right: {short(read_call(turn.action))}", "high") for turn in trajectory.turns), "ok"
        )
        for trajectory in played
    ]
    full = HindsightTeacher(template=HINT, on_invalid="env_feedback")
    feedback = HindsightTeacher(template=HINT, include_diagnosis=False, on_invalid="env_feedback")
    plain = HindsightTeacher(template=HINT, include_action_target="never")
    text_only = HindsightTeacher(template=HINT, include_next_observation=False, include_reward=False)
    arms = {
        "true diagnosis": (full, truth),
        "its own diagnosis": (full, own),
        "true diagnosis, no target": (plain, truth),
        "observation and reward only": (feedback, truth),
        "shuffled diagnosis": (full, shuffled),
        "shuffled diagnosis alone": (text_only, shuffled),
        "constant 'right'": (full, constant),
    }
    places = [(i, j) for i, trajectory in enumerate(played) for j in wrong_turns(trajectory)]
    known = [desks(trajectory) for trajectory in played]
    rights = [known[i][j].right() for i, j in places]
    labels = [policy.parser.write(right) for right in rights]
    change = [right["name"] in ACTS for right in rights]
    table = {"no hint": probabilities(policy, [played[i].turns[j].prompt_ids for i, j in places], labels)}
    for name, (teacher, reflections) in arms.items():
        hints = teacher.advise(played, reflections, policy)
        contexts = [
            policy.template.splice(played[i].turns[j].prompt_ids, hint.text if (hint := hints[i][j]) else "")
            for i, j in places
        ]
        table[name] = probabilities(policy, contexts, labels)
    print(f"{'P(right reply) on turns that went wrong':45} {'all':>6} {'change':>7}")
    for name, values in table.items():
        print(f"{name:45} {mean(values):6.3f} {mean(list(itertools.compress(values, change))):7.3f}")
    extra = {
        "wrong turns": len(places),
        "of these the change itself": sum(change),
        "success at T=1": summarise(played)["success"],
        "success, greedy": summarise(greedy)["success"],
        "success of doing nothing": summarise(played)["do_nothing_floor"],
        "own reviews: turns covered": mean([d is not None for r in own for d in r.diagnoses]),
        "own reviews: right target on wrong turns": mean([_same(own[i], truth[i], j) for i, j in places]),
        "own reviews: right turns that are blamed": mean(
            [
                (d := own[i].diagnoses[j]) is not None and d.next_action_target is not None
                for i, trajectory in enumerate(played)
                for j in set(range(len(trajectory.turns))) - set(wrong_turns(trajectory))
            ]
        ),
        "own reviews: targets dropped as leaks": sum(code == "target_leak" for r in own for code, _ in r.issues),
    }
    for name, value in extra.items():
        print(f"{name:45} {value:6.3f}")
    result = {name: mean(values) for name, values in table.items()}
    order = [result[k] for k in ("true diagnosis", "its own diagnosis", "observation and reward only", "no hint")]
    idle = max(result["shuffled diagnosis"], result["constant 'right'"])
    passed = all(a > b for a, b in itertools.pairwise(order)) and idle <= result["no hint"] + 0.02
    print("gate:", "passed" if passed else "FAILED", "(true > own > feedback > none >= shuffled, constant)")
    if args.out:
        args.out.write_text(json.dumps({**result, **extra, "passed": passed}, indent=2) + "\n")
    raise SystemExit(not passed)


def wrong_turns(trajectory: Trajectory) -> list[int]:
    """Indices of the turns that were not right."""
    return [
        j
        for j, (desk, turn) in enumerate(zip(desks(trajectory), trajectory.turns, strict=True))
        if judge(desk, read_call(turn.action), turn.observation)[1] is not None
    ]


def _same(own: Reflection, truth: Reflection, j: int) -> bool:
    mine, right = own.diagnoses[j], truth.diagnoses[j]
    return mine is not None and right is not None and mine.next_action_target == right.next_action_target


if __name__ == "__main__":
    main()
