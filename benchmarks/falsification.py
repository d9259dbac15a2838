"""Test whether the diagnoses have an effect: before training on frozen weights, and after training from a grid.

    python benchmarks/falsification.py --config configs/quickstart.yaml --truth ShopRules --out runs/falsification
    python benchmarks/falsification.py --grid runs/turn_budget --out runs/falsification

Before: episodes are played, and the configuration's teacher re-scores the same actions with true, shuffled, generic and
constant diagnoses, with everything else equal. If its divergence, its endorsement log p(a) - log q(a) of wrong and
right turns, and the rate at which it changes the most likely token are equal for true and shuffled diagnoses, training
will not differ either. Shuffled diagnoses have no corrected action, so true ones are also measured without it.

After: HERO, shuffled diagnoses and feedback only are compared with each other at each budget of a grid.

Writes ``falsification.json`` and ``falsification.md``. Intervals are 95 % by bootstrap: over episodes before, over runs
and tasks after.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from provenance import signed
from tables import markdown

from hero_pl.errors import ConfigError, HeroError
from hero_pl.runs.compare import compare_runs
from hero_pl.runs.jsonl import finite
from hero_pl.runs.tables import notes as notes_of
from hero_pl.types import Diagnosis, Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.cli.lightning import HeroCLI
    from hero_pl.policy.base import Policy
    from hero_pl.reflection.base import Reflector

TRUE = "true"
CONSTANT = "This was the right thing to do."
TRIANGLE = ("hero_rule", "hero_self", "shuffled", "feedback_only")
MEASURES = {
    "divergence": "divergence, nats per token",
    "wrong": "endorsement of wrong turns, nats",
    "right": "endorsement of right turns, nats",
    "changed": "turns whose most likely token changes",
}


@dataclass(frozen=True)
class TurnScore:
    """Effect of the teacher on one turn."""

    episode: int
    wrong: bool
    divergence: float
    """Mean over its tokens, in nats."""
    endorsement: float
    """Sum over its tokens of log p(a) - log q(a), in nats."""
    changed: bool
    """Whether the most likely id differs at one of its tokens."""


# -- before training -------------------------------------------------------------------------------------------------


def arms_of(
    trajectories: Sequence[Trajectory], true: Sequence[Reflection], seed: int, constant: str
) -> dict[str, list[Reflection]]:
    """Diagnoses of each arm: the same turns and confidences with other texts."""
    from hero_pl.reflection.controls import ShuffledReflector
    from hero_pl.reflection.scripted import ScriptedReflector

    def exchanged(mode: Any) -> list[Reflection]:
        return ShuffledReflector(ScriptedReflector(true), mode, seed).reflect(trajectories, None)

    def worded(change: Any) -> list[Reflection]:
        return [replace(one, diagnoses=tuple(d and change(d) for d in one.diagnoses)) for one in true]

    return {
        TRUE: list(true),
        "true without target": worded(lambda one: replace(one, next_action_target=None)),
        "shuffled": exchanged("batch"),
        "generic": exchanged("generic"),
        "constant": worded(lambda one: Diagnosis(constant, one.confidence)),
    }


def score(
    cli: HeroCLI, trajectories: Sequence[Trajectory], reflections: Sequence[Reflection], wrong: Sequence[Sequence[bool]]
) -> dict[tuple[int, int], TurnScore]:
    """Compare teacher and student on every hinted turn, both with the frozen weights."""
    import torch

    from hero_pl.batch import tokenize
    from hero_pl.losses.base import action_log_probabilities

    policy, objective = cli.model.policy, cli.model.objective
    hints = objective.teacher.advise(trajectories, reflections, policy.dialect)
    batch = tokenize(trajectories, hints, policy.dialect, device=next(policy.parameters()).device)
    found: dict[tuple[int, int], TurnScore] = {}
    for micro in batch.split(cli.model.micro_batch_tokens):
        with policy.sampling():
            student, teacher = policy.score(micro.student), policy.score(micro.teacher)
            divergence = objective.divergence(student, teacher, micro.action_ids)
        gap = action_log_probabilities(teacher, micro.action_ids) - action_log_probabilities(student, micro.action_ids)
        changed = student.argmax(-1) != teacher.argmax(-1)
        for number in torch.unique(micro.turn).tolist():
            tokens = micro.turn == number
            episode, turn = int(micro.trajectory[tokens][0]), batch.turn_numbers[number]
            found[episode, turn] = TurnScore(
                episode,
                wrong[episode][turn - 1],
                float(divergence[tokens].mean()),
                float(gap[tokens].sum()),
                bool(changed[tokens].any()),
            )
    return found


def measure(scores: Sequence[TurnScore], which: str) -> list[tuple[int, float]]:
    """Episode and value of every turn that the measure uses."""
    if which == "divergence":
        return [(one.episode, one.divergence) for one in scores]
    if which == "changed":
        return [(one.episode, float(one.changed)) for one in scores]
    return [(one.episode, one.endorsement) for one in scores if one.wrong == (which == "wrong")]


def bootstrap_mean(values: Sequence[tuple[int, float]], resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """Mean with a 95 % interval from a bootstrap over episodes; NaN if all draws are equal.

    Args:
        values: Episode and value.
        resamples: Number of draws.
        seed: Seed of the generator.
    """
    sums: dict[int, list[float]] = {}
    for episode, value in values:
        total = sums.setdefault(episode, [0.0, 0.0])
        total[0] += value
        total[1] += 1.0
    if not sums:
        return {"mean": math.nan, "low": math.nan, "high": math.nan}
    table = np.array(list(sums.values()))
    draws = np.random.default_rng(seed).integers(len(table), size=(resamples, len(table)))
    drawn = table[draws].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    if high - low < 1e-12:  # without spread there is no estimate of an interval
        low = high = math.nan
    return {"mean": float(table[:, 0].sum() / table[:, 1].sum()), "low": float(low), "high": float(high)}


def before(
    cli: HeroCLI, episodes: int, stage: str, truth: Reflector | None, seed: int, constant: str
) -> dict[str, Any]:
    """Play, reflect, and score every arm on the turns that have a hint in all arms."""
    policy: Policy = cli.model.policy
    objective = cli.model.objective
    if not hasattr(objective, "reflector"):
        raise ConfigError(f"{type(objective).__name__} has no reflector. Give a configuration with SelfDistillation.")
    policy.load()
    objective.start(policy)
    played = cli.datamodule.evaluate(policy, stage, episodes)
    true = objective.reflector.reflect(played, policy)
    judged = truth.reflect(played, policy) if truth else true
    wrong = [[d is not None and d.blames for d in one.diagnoses] for one in judged]
    scores = {
        name: score(cli, played, reflections, wrong)
        for name, reflections in arms_of(played, true, seed, constant).items()
    }
    shared = sorted(set.intersection(*(set(one) for one in scores.values())))
    arms = {name: [one[place] for place in shared] for name, one in scores.items()}
    turns = sum(len(one.turns) for one in played)
    return {
        "episodes": len(played),
        "turns": turns,
        "turns_compared": len(shared),
        "turns_wrong": sum(one.wrong for one in arms[TRUE]),
        "wrong_by": type(truth or objective.reflector).__name__,
        "arms": {
            name: {which: bootstrap_mean(measure(one, which)) for which in MEASURES} for name, one in arms.items()
        },
        "against_true": {
            name: {which: difference(arms["true without target"], arms[name], which) for which in MEASURES}
            for name in arms
            if not name.startswith(TRUE)
        },
    }


def difference(one: Sequence[TurnScore], other: Sequence[TurnScore], which: str) -> dict[str, Any]:
    """``one - other`` on the same turns, with an interval and a verdict."""
    pairs = zip(measure(one, which), measure(other, which), strict=True)
    found = bootstrap_mean([(episode, a - b) for (episode, a), (_, b) in pairs])
    resolved = found["low"] > 0.0 or found["high"] < 0.0
    return {**found, "verdict": ("higher" if found["mean"] > 0 else "lower") if resolved else "not resolved"}


# -- after training --------------------------------------------------------------------------------------------------


def after(grid: Path, methods: Sequence[str], budget: int | None) -> dict[str, Any]:
    """Compare every pair of methods at each budget of a grid, paired by task and run."""
    folder = grid / "cells" if (grid / "cells").is_dir() else grid
    comparisons = []
    reasons = []
    for one, other in itertools.combinations(methods, 2):
        try:
            found = compare_runs([folder], baseline=other, budget=budget, stage="test")
        except HeroError as error:
            reasons.append(f"{one} against {other}: {error}")
            continue
        comparisons += [pair for pair in found if pair.method == one]
    if not comparisons:
        raise ConfigError(f"{grid}: no two of {', '.join(methods)} can be compared. {' '.join(reasons)}")
    pairs = [
        {
            "budget": pair.turns_budget,
            "method": pair.method,
            "against": pair.baseline,
            "block": pair.block,
            "runs": pair.seeds,
            "tasks": pair.tasks,
            "means": [pair.method_mean, pair.baseline_mean],
            "effect": pair.effect,
            "low": pair.low if pair.has_interval else math.nan,
            "high": pair.high if pair.has_interval else math.nan,
            "runs_needed": pair.runs_needed,
            "verdict": pair.verdict,
        }
        for pair in sorted(comparisons, key=lambda pair: pair.turns_budget)
    ]
    return {"pairs": pairs, "notes": notes_of(comparisons), "left_out": reasons}


# -- report ----------------------------------------------------------------------------------------------------------


def page(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    parts = ["# Falsification report"]
    if found := result.get("before"):
        parts += [
            "## Before training, frozen weights",
            f"{found['episodes']} episodes, {found['turns_compared']} of {found['turns']} turns hinted in every arm, "
            f"{found['turns_wrong']} of them wrong according to {found['wrong_by']}. "
            "Mean and 95 % interval, bootstrap over episodes.",
            markdown(
                ["diagnosis", *MEASURES.values()],
                [[name, *(interval(values[which]) for which in MEASURES)] for name, values in found["arms"].items()],
            ),
            "True diagnoses without target minus:",
            markdown(
                ["diagnosis", *MEASURES.values()],
                [
                    [name, *(f"{interval(values[which], '+')} {values[which]['verdict']}" for which in MEASURES)]
                    for name, values in found["against_true"].items()
                ],
            ),
            verdict(found),
        ]
    if found := result.get("after"):
        parts += [
            "## After training",
            markdown(
                ["budget", "base policy", "method", "against", "runs", "means", "effect", "verdict", "runs needed"],
                [
                    [
                        str(pair["budget"]),
                        pair["block"] or "-",
                        pair["method"],
                        pair["against"],
                        str(pair["runs"]),
                        f"{pair['means'][0]:.3f} vs {pair['means'][1]:.3f}",
                        interval({**pair, "mean": pair["effect"]}, "+"),
                        pair["verdict"],
                        "unknown" if pair["runs_needed"] is None else str(pair["runs_needed"]),
                    ]
                    for pair in found["pairs"]
                ],
            ),
            *found["notes"],
            *(f"Left out: {reason}" for reason in found["left_out"]),
        ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def verdict(found: Mapping[str, Any]) -> str:
    """Conclusion about shuffled diagnoses from the measures before training."""
    apart = [
        MEASURES[which] for which, one in found["against_true"]["shuffled"].items() if one["verdict"] != "not resolved"
    ]
    if apart:
        return f"True and shuffled diagnoses differ in: {'; '.join(apart)}."
    return "True and shuffled diagnoses are not resolved in any measure: expect nothing from training on either."


def interval(value: Mapping[str, Any], sign: str = "", digits: int = 3) -> str:
    """A mean and its interval as text."""
    if math.isnan(value["mean"]):
        return "no such turn"
    mean, low, high = (f"{value[name]:{sign}.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [no interval]" if math.isnan(value["low"]) else f"{mean} [{low}, {high}]"


def main() -> None:
    """Before, after, or both; one report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", help="configurations for fit; later ones override earlier ones")
    parser.add_argument("--truth", help="reflector that labels the wrong turns; default: the configuration's own")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--stage", default="validate", choices=["validate", "test", "train"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--constant", default=CONSTANT, help="diagnosis of the constant arm")
    parser.add_argument("--grid", type=Path, help="folder written by turn_budget.py")
    parser.add_argument("--methods", nargs="+", default=list(TRIANGLE), help="methods to compare, HERO first")
    parser.add_argument("--budget", type=int, help="only at this budget of the grid")
    parser.add_argument("--out", type=Path, default=Path("runs/falsification"))
    args = parser.parse_args()
    if not args.config and not args.grid:
        parser.error("give --config for the report before training, --grid for the report after training, or both.")
    result: dict[str, Any] = {}
    try:
        if args.grid:
            result["after"] = after(args.grid, args.methods, args.budget)
        if args.config:
            from hero_pl.cli.components import registered
            from hero_pl.cli.lightning import instantiate

            known = {cls.__name__: cls for cls in registered()["Reflector"]}
            if args.truth and args.truth not in known:
                parser.error(f"--truth {args.truth}: unknown reflector. Expected one of: {', '.join(known)}.")
            truth = known[args.truth]() if args.truth else None
            words = [word for path in args.config for word in ("--config", path)]
            cli = instantiate([*words, "--trainer.logger=false"])
            result["before"] = before(cli, args.episodes, args.stage, truth, args.seed, args.constant)
    except HeroError as error:
        raise SystemExit(f"falsification: {error}") from error
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "falsification.json").write_text(json.dumps(finite(result), indent=2) + "\n", encoding="utf-8")
    (args.out / "falsification.md").write_text(signed(page(result)), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
