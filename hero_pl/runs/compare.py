"""Compare runs task by task: is the difference between two methods bigger than their noise?

Two methods are compared on the runs (block and seed) and tasks that both have (a paired comparison), at equal stage and
budget and with the same kind of user simulator.

Base policies (blocks) are compared each by itself: effects that differ between them have no common mean that would
mean something.

The interval is the effect plus and minus a quantile of Student's t times a standard error. The error comes from a
bootstrap that draws runs and tasks independently of each other (Owen, The pigeonhole bootstrap, Annals of Applied
Statistics, 2007); what a bootstrap of few runs lacks is added. The degrees of freedom follow from the shares that runs
and tasks have in the variance (Satterthwaite). With a single run it speaks about the tasks alone. Where no spread was
seen (one run of one task, or differences that are all alike) there is no interval and nothing is resolved.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hero_pl.errors import ConfigError, HeroError
from hero_pl.runs.evaluations import METRICS, Cell, Metric, Unit, Values, load_results, unit_name
from hero_pl.runs.intervals import LEVEL, student_quantile

FEW_SEEDS = 5

RESAMPLES = 4000
"""Bootstrap draws."""
POWER = 0.8
"""Chance of seeing an effect that is there."""
MOST = 1_000_000
"""Beyond so many seeds, nothing is said about the number needed."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method against the baseline, at one stage and budget."""

    stage: str
    turns_budget: int
    user: str
    """Kind of user simulator that both were evaluated with; empty without one."""
    metric: Metric
    baseline: str
    method: str
    block: str
    """Base policy of the runs; empty where there is one only."""
    seeds: int
    """Runs that both have."""
    tasks: int
    """Different tasks that both have, over all runs."""
    unpaired: int
    """Pairs of run and task that only one of the two has; they are left out."""
    broken: int
    """Episodes of either that the environment or its user broke; they are left out."""
    floor: float | None
    """Success that doing nothing would have on the same tasks; ``None`` where the environment does not tell."""
    baseline_mean: float
    method_mean: float
    effect: float
    """``method_mean - baseline_mean``."""
    low: float
    high: float
    """Ends of the 95 % interval of the effect; infinite where no spread was seen that an interval could rest on."""
    runs_needed: int | None
    """Seeds per method at which an effect of this size is resolved with 80 % chance; ``None`` when one seed, or
    seeds that are all alike, cannot tell or when there is no effect (or more than a million would be needed)."""

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0.0 or self.high < 0.0

    @property
    def has_interval(self) -> bool:
        """Whether any spread was seen, without which an interval would claim certainty."""
        return math.isfinite(self.low)

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        if not self.resolved:
            return "not resolved"
        return "higher" if self.effect > 0 else "lower"


def compare_runs(
    runs: Sequence[Path],
    baseline: str | None = None,
    metric: Metric = "success",
    budget: int | None = None,
    stage: str | None = None,
) -> list[Comparison]:
    """Compare every method in the runs with the baseline.

    Args:
        runs: Folders that are searched for ``eval.jsonl`` (one run, or a grid of runs), or such files.
        baseline: Name of the method to compare with; the first method read when not given. If it was never evaluated
            after training (an untrained policy), its evaluation at 0 turns is compared with every budget.
        metric: What is averaged: ``success``, ``reward`` or ``turns``.
        budget: Compare at this turns budget only.
        stage: Compare at this stage only: ``test`` or ``validate``.

    Raises:
        ConfigError: The baseline, the budget, the stage or the metric is unknown.
        HeroError: A run has no results, a line is unusable, two runs are the same, or nothing can be paired.
    """
    if metric not in METRICS:
        raise ConfigError(f"metric is {metric!r}; give one of {', '.join(METRICS)}.")
    results = load_results(runs, metric)
    methods = results.methods
    first = baseline if baseline is not None else next(iter(methods))
    if first not in methods:
        raise ConfigError(f"No run of the baseline {first!r}. The runs hold: {', '.join(methods)}.")
    if len(methods) < 2:
        raise HeroError(f"The runs hold one method only ({first}). Name runs of at least two: hero_pl compare RUN RUN")
    untrained = all(turns == 0 for _, turns, _ in methods[first])
    comparisons = []
    for method, cells in methods.items():
        if method == first:
            continue
        for cell, values in sorted(cells.items()):
            if budget not in (None, cell[1]) or stage not in (None, cell[0]):
                continue
            other = (cell[0], 0, cell[2]) if untrained else cell
            if other in methods[first]:
                pair = ((first, methods[first][other]), (method, values))
                broken = results.broken[method, cell] + results.broken[first, other]
                comparisons += _compare_blocks(cell, metric, pair, results.solved_by_nothing, broken)
            else:
                _refuse_other_users(other, method, first, methods[first])
    if not comparisons and (budget is not None or stage is not None):
        known = sorted({cell[:2] for cells in methods.values() for cell in cells})
        given = ", ".join(
            f"{name}={value}" for name, value in (("budget", budget), ("stage", stage)) if value is not None
        )
        raise ConfigError(
            f"{given}: no method can be compared with {first!r} there. "
            f"The runs were evaluated at {', '.join(f'{mark} turns ({name})' for name, mark in known)}."
        )
    if not comparisons:
        raise HeroError(
            f"No method was evaluated at the same stage and turns budget as {first!r}. "
            "Compare runs of one budget, or give another baseline."
        )
    return comparisons


def _refuse_other_users(cell: Cell, method: str, first: str, cells: Mapping[Cell, Values]) -> None:
    """Scores with different kinds of users are never set against each other.

    Raises:
        HeroError: The baseline has this stage and budget with another kind of user only.
    """
    others = sorted({user for stage, turns, user in cells if (stage, turns) == cell[:2]})
    if others:
        raise HeroError(
            f"{method!r} was evaluated with the user {cell[2] or 'none'}, {first!r} with {', '.join(others) or 'none'} "
            f"({cell[0]}, {cell[1]} turns). Scores with different users are not comparable. Evaluate both with one."
        )


def paired_differences(baseline: Values, method: Values) -> dict[Unit, dict[str, float]]:
    """Per run that both have, the difference of the means of every task that both have.

    Returns:
        Block and seed -> task -> difference.
    """
    differences = {}
    for unit in sorted(baseline.keys() & method.keys()):
        tasks = sorted(baseline[unit].keys() & method[unit].keys())
        if tasks:
            differences[unit] = {t: float(np.mean(method[unit][t]) - np.mean(baseline[unit][t])) for t in tasks}
    return differences


def bootstrap(runs: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    """Mean over runs of the mean over tasks, after drawing runs and, independently, tasks with replacement.

    Args:
        runs: Task -> difference, one per run; a run may lack tasks.

    Returns:
        ``(RESAMPLES,)``, the same for the same runs.
    """
    tasks = sorted({task for run in runs for task in run})
    there = np.array([[task in run for task in tasks] for run in runs], dtype=float)
    values = np.array([[run.get(task, 0.0) for task in tasks] for run in runs])
    means = values.sum(1) / there.sum(1)
    generator = np.random.default_rng(0)
    found: list[NDArray[np.float64]] = []
    for part in np.array_split(np.arange(RESAMPLES), 1 + RESAMPLES * len(tasks) // 4_000_000):  # some 32 MB at once
        of_tasks = generator.multinomial(len(tasks), np.full(len(tasks), 1 / len(tasks)), size=len(part))
        of_runs = generator.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=len(part)) / len(runs)
        counted = of_tasks @ there.T
        drawn = np.where(counted > 0, of_tasks @ values.T / np.maximum(counted, 1), means)
        found.append((of_runs * drawn).sum(1))
    return np.concatenate(found)


def effect_interval(runs: Sequence[Mapping[str, float]]) -> tuple[float, float, float]:
    """Effect and the ends of its 95 % interval (infinite without any spread), from the differences of one or more runs.

    Args:
        runs: Task -> difference, one per run.
    """
    effects = [float(np.mean(list(run.values()))) for run in runs]
    by_task: dict[str, list[float]] = {}
    for run in runs:
        for task, value in run.items():
            by_task.setdefault(task, []).append(value)
    of_tasks = [float(np.mean(values)) for values in by_task.values()]
    parts = [(_variance_of_mean(part), len(part) - 1) for part in (effects, of_tasks)]
    total = sum(variance for variance, _ in parts)
    weights = sum(variance**2 / freedom for variance, freedom in parts if freedom)
    freedom = max(1, int(total**2 / weights)) if weights else 1
    error = math.sqrt(float(bootstrap(runs).var()) + parts[0][0] / len(runs))  # n runs: their share is 1 / n too small
    half = student_quantile(LEVEL, freedom) * error if error > 1e-12 else math.inf
    effect = float(np.mean(effects))
    return effect, effect - half, effect + half


def _variance_of_mean(values: Sequence[float]) -> float:
    return float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0


def runs_needed(seed_effects: Sequence[float]) -> int | None:
    """Seeds per method that resolve an effect of the observed size with 80 % chance at the 95 % level.

    With mean ``d`` and standard deviation ``s`` of the effects per seed: the smallest ``n`` with
    ``|d| sqrt(n) / s >= t_0.975 + t_0.8`` at ``n - 1`` degrees of freedom, of a paired t-test.

    Example:
        >>> runs_needed([0.0, 0.2])  # d = 0.1, s = 0.1414: 18 > (2.110 + 0.863)^2 * 2
        18
    """
    effect = abs(float(np.mean(seed_effects)))
    spread = float(np.std(seed_effects, ddof=1)) if len(seed_effects) > 1 else 0.0
    if effect < 1e-12 or spread < 1e-12:
        return None

    def enough(n: int) -> bool:
        return effect * math.sqrt(n) >= spread * (student_quantile(LEVEL, n - 1) + student_quantile(POWER, n - 1))

    return bisect.bisect_left(range(MOST), True, lo=2, key=enough) if enough(MOST) else None


def _compare_blocks(
    cell: Cell,
    metric: Metric,
    pair: tuple[tuple[str, Values], tuple[str, Values]],
    solved_by_nothing: Mapping[str, bool],
    broken: int,
) -> list[Comparison]:
    """One method, the second of the pair, against the baseline, on every base policy that both have."""
    baseline, method = pair
    blocks = sorted({block for block, _ in baseline[1]} & {block for block, _ in method[1]})
    found = []
    for block in blocks:
        own = [(name, {unit: tasks for unit, tasks in values.items() if unit[0] == block}) for name, values in pair]
        if differences := paired_differences(own[0][1], own[1][1]):
            found.append(_compare(cell, metric, (own[0], own[1]), block, differences, solved_by_nothing, broken))
    if not found:
        raise HeroError(
            f"{method[0]!r} and {baseline[0]!r} share no seed with a common task at {cell[1]} turns ({cell[0]}): "
            f"{', '.join(map(unit_name, sorted(method[1])))} and {', '.join(map(unit_name, sorted(baseline[1])))}. "
            "Evaluate both on the same tasks with the same seeds."
        )
    return found


def _compare(
    cell: Cell,
    metric: Metric,
    pair: tuple[tuple[str, Values], tuple[str, Values]],
    block: str,
    differences: Mapping[Unit, Mapping[str, float]],
    solved_by_nothing: Mapping[str, bool],
    broken: int,
) -> Comparison:
    baseline, method = pair
    pairs = [_pairs(values) for values in (baseline[1], method[1])]
    common = pairs[0] & pairs[1]
    effect, low, high = effect_interval(list(differences.values()))
    means = [_mean(values[1], common) for values in (baseline, method)]
    floor = [solved_by_nothing[task] for _, task in sorted(common) if task in solved_by_nothing]
    return Comparison(
        stage=cell[0],
        turns_budget=cell[1],
        user=cell[2],
        metric=metric,
        baseline=baseline[0],
        method=method[0],
        block=block,
        seeds=len(differences),
        tasks=len({task for _, task in common}),
        unpaired=len(pairs[0] ^ pairs[1]),
        broken=broken,
        floor=float(np.mean(floor)) if floor else None,
        baseline_mean=means[0],
        method_mean=means[1],
        effect=effect,
        low=low,
        high=high,
        runs_needed=runs_needed([float(np.mean(list(tasks.values()))) for tasks in differences.values()]),
    )


def _pairs(values: Values) -> set[tuple[Unit, str]]:
    return {(unit, task) for unit, tasks in values.items() for task in tasks}


def _mean(values: Values, common: set[tuple[Unit, str]]) -> float:
    """Mean over runs of the mean over tasks of the mean over episodes."""
    by_run: dict[Unit, list[float]] = {}
    for unit, task in sorted(common):
        by_run.setdefault(unit, []).append(float(np.mean(values[unit][task])))
    return float(np.mean([np.mean(tasks) for tasks in by_run.values()]))
