"""Compare runs task by task: is the difference between two methods larger than the noise?

Two methods are compared on the runs (block and seed) and tasks that both have (a paired comparison), at the same stage
and budget and with the same kind of user simulator.

Each base policy (block) gets its own comparison, because effects on different base policies should not be averaged.

The interval is the effect plus and minus a quantile of Student's t times a standard error. The standard error comes
from a bootstrap that draws runs and tasks independently of each other (Owen, The pigeonhole bootstrap, Annals of
Applied Statistics, 2007), with a correction for its bias when there are few runs. The degrees of freedom follow from
the shares of runs and tasks in the variance (Satterthwaite). With a single run the interval covers the choice of tasks
only. Without any spread (one run of one task, or equal differences) there is no interval and nothing is resolved.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hero_pl.errors import ConfigError, HeroError
from hero_pl.runs.evaluations import METRICS, Cell, Metric, Results, Unit, Values, load_results, unit_name
from hero_pl.runs.intervals import EQUAL, LEVEL, student_quantile
from hero_pl.runs.records import RECORDS_FILE

FEW_SEEDS = 5

RESAMPLES = 4000
"""Bootstrap draws."""
POWER = 0.8
"""Probability of detecting an existing effect."""
MOST = 1_000_000
"""Largest number of needed seeds that is reported."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method compared with the baseline, at one stage and budget."""

    stage: str
    turns_budget: int
    user: str
    """Kind of user simulator in both evaluations; empty without one."""
    metric: Metric
    baseline: str
    method: str
    block: str
    """Base policy of the runs; empty if the runs do not name one."""
    seeds: int
    """Number of runs that both methods have."""
    tasks: int
    """Number of different tasks that both methods have, over all runs."""
    unpaired_of: frozenset[tuple[str, Cell, Unit, str]]
    """Method, cell, run and task of the results that only one of the two methods has; they are left out."""
    broken_of: Mapping[tuple[str, Cell, str], int]
    """Method, cell and block -> episodes that ended with an error of the environment or its user; they are left out.
    """
    floor: float | None
    """Success rate of doing nothing on the same tasks; ``None`` if the environment does not report it."""
    baseline_mean: float
    method_mean: float
    effect: float
    """``method_mean - baseline_mean``."""
    low: float
    high: float
    """Ends of the 95 % interval of the effect; infinite if there is no spread to compute an interval from."""
    runs_needed: int | None
    """Seeds per method at which an effect of this size is resolved with 80 % probability; ``None`` with one seed, with
    equal effects in all seeds, without an effect, or if more than a million seeds would be needed."""
    equal_seeds: bool
    """Whether the effect is the same with every seed, so that nothing is known of the spread between runs."""
    mixed: tuple[str, ...] = ()
    """Settings in which the runs of one of the two methods differ, with their values."""
    remarks: tuple[str, ...] = ()
    """Notes in whole sentences: what is not in the comparison, and how the two evaluations differ."""

    @property
    def unpaired(self) -> int:
        """Number of results that only one of the two methods has."""
        return len(self.unpaired_of)

    @property
    def broken(self) -> int:
        """Episodes of either method that ended with an error."""
        return sum(self.broken_of.values())

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0.0 or self.high < 0.0

    @property
    def has_interval(self) -> bool:
        """Whether there is any spread to compute an interval from."""
        return math.isfinite(self.low)

    @property
    def verdict(self) -> str:
        """``higher``, ``lower`` or ``not resolved``."""
        if not self.resolved:
            return "not resolved"
        return "higher" if self.effect > 0 else "lower"


class Side(NamedTuple):
    """One of the two methods of a comparison."""

    method: str
    cell: Cell
    values: Values


def compare_runs(
    runs: Sequence[Path],
    baseline: str | None = None,
    metric: Metric = "success",
    budget: int | None = None,
    stage: str | None = None,
    methods: Sequence[str] = (),
) -> list[Comparison]:
    """Compare every method in the runs with the baseline.

    Args:
        runs: Folders that are searched for ``eval.jsonl`` (one run, or a grid of runs), or such files.
        baseline: Name of the method to compare with; default: the first method read. If it was evaluated at 0 turns
            only (an untrained policy), this evaluation is compared with every budget.
        metric: Metric to average: ``success``, ``reward`` or ``turns``.
        budget: Compare at this turns budget only.
        stage: Compare at this stage only: ``test`` or ``validate``.
        methods: Compare these methods only; default: all. The runs of others are not looked at.

    Raises:
        ConfigError: The baseline, a method, the budget, the stage or the metric is unknown.
        HeroError: A run has no results, a line is invalid, two runs are the same, or no runs can be paired.
    """
    if metric not in METRICS:
        raise ConfigError(f"metric is {metric!r}; expected one of {', '.join(METRICS)}.")
    results = load_results(runs, metric, {*methods, *([baseline] if baseline else [])} if methods else ())
    for kind, name in (*(("method", one) for one in methods), ("baseline", baseline)):
        if name is not None and name not in results.known:
            raise ConfigError(
                f"There is no run of the {kind} {name!r}. The methods of these runs are: {', '.join(results.known)}."
            )
    found = results.methods
    for name in results.known:
        if name not in found and (not methods or name in {*methods, baseline}):
            raise HeroError(_all_broken(results, name, {cell for method, cell, _ in results.broken if method == name}))
    first = baseline if baseline is not None else next(iter(methods or found))
    if len(found) < 2:
        raise HeroError(
            f"These runs are of one method only ({first}). Give runs of at least two: hero_pl compare RUN RUN"
        )
    comparisons: list[Comparison] = []
    lost: dict[str, None] = {}  # sentences about cells in which one of the two methods has broken episodes only
    broken_at = {(name, cell) for name, cell, _ in results.broken}
    untrained = all(turns == 0 for _, turns, _ in {*found[first], *(cell for name, cell in broken_at if name == first)})
    for method, cells in found.items():
        if method == first:
            continue
        for cell in sorted({*cells, *(cell for name, cell in broken_at if name == method)}):
            if budget not in (None, cell[1]) or stage not in (None, cell[0]):
                continue
            other = (cell[0], 0, cell[2]) if untrained else cell
            if cell not in cells:
                if other in found[first]:
                    lost.setdefault(_all_broken(results, method, [cell]))
            elif other in found[first]:
                pair = Side(first, other, found[first][other]), Side(method, cell, cells[cell])
                comparisons += _compare_blocks(metric, pair, results)
            elif (first, other) in broken_at:
                lost.setdefault(_all_broken(results, first, [other]))
            else:
                _refuse_other_users(other, method, first, found[first])
    if lost and not comparisons:
        raise HeroError(" ".join(lost))
    if not comparisons and (budget is not None or stage is not None):
        known = sorted({cell[:2] for cells in found.values() for cell in cells})
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
            "Compare runs with the same budget, or give another baseline."
        )
    return [replace(one, remarks=(*one.remarks, *lost)) for one in comparisons]


def _all_broken(results: Results, method: str, cells: Collection[Cell]) -> str:
    count = sum(n for (name, cell, _), n in results.broken.items() if name == method and cell in cells)
    places = ", ".join(f"{turns} turns ({stage})" for stage, turns in sorted({cell[:2] for cell in cells}))
    return (
        f"All {count} episodes of {method!r} at {places} ended with an error of the environment or its user, so there "
        f"is nothing to compare. See the errors in the {RECORDS_FILE} of its runs, or leave it out: --methods with the "
        "others."
    )


def _refuse_other_users(cell: Cell, method: str, first: str, cells: Mapping[Cell, Values]) -> None:
    """Refuse to compare scores from different kinds of users.

    Raises:
        HeroError: At this stage and budget the baseline was evaluated with another kind of user only.
    """
    others = sorted({user for stage, turns, user in cells if (stage, turns) == cell[:2]})
    if others:
        raise HeroError(
            f"{method!r} was evaluated with the user {cell[2] or 'none'}, {first!r} with {', '.join(others) or 'none'} "
            f"({cell[0]}, {cell[1]} turns). Scores with different users are not comparable. Evaluate both with one."
        )


def paired_differences(baseline: Values, method: Values) -> dict[Unit, dict[str, float]]:
    """For each run that both methods have, the difference of the means of each task that both have.

    Returns:
        Mapping from block and seed to a mapping from task to difference.
    """
    differences = {}
    for unit in sorted(baseline.keys() & method.keys()):
        tasks = sorted(baseline[unit].keys() & method[unit].keys())
        if tasks:
            differences[unit] = {t: float(np.mean(method[unit][t]) - np.mean(baseline[unit][t])) for t in tasks}
    return differences


def bootstrap(runs: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    """Bootstrap draws of the mean over runs of the mean over tasks; runs and tasks are drawn independently.

    Args:
        runs: One mapping from task to difference per run; a run may lack tasks.

    Returns:
        Array of shape ``(RESAMPLES,)``; deterministic.
    """
    tasks = sorted({task for run in runs for task in run})
    there = np.array([[task in run for task in tasks] for run in runs], dtype=float)
    values = np.array([[run.get(task, 0.0) for task in tasks] for run in runs])
    means = values.sum(1) / there.sum(1)
    generator = np.random.default_rng(0)
    means_drawn: list[NDArray[np.float64]] = []
    for part in np.array_split(np.arange(RESAMPLES), 1 + RESAMPLES * len(tasks) // 4_000_000):  # about 32 MB per part
        of_tasks = generator.multinomial(len(tasks), np.full(len(tasks), 1 / len(tasks)), size=len(part))
        of_runs = generator.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=len(part)) / len(runs)
        counted = of_tasks @ there.T
        drawn = np.where(counted > 0, of_tasks @ values.T / np.maximum(counted, 1), means)
        means_drawn.append((of_runs * drawn).sum(1))
    return np.concatenate(means_drawn)


def effect_interval(runs: Sequence[Mapping[str, float]]) -> tuple[float, float, float]:
    """Effect and the ends of its 95 % interval (infinite without any spread).

    Args:
        runs: One mapping from task to difference per run, at least one.
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
    error = math.sqrt(
        float(bootstrap(runs).var()) + parts[0][0] / len(runs)
    )  # the bootstrap's variance over n runs is too small by a share of 1 / n
    half = student_quantile(LEVEL, freedom) * error if error > EQUAL else math.inf
    effect = float(np.mean(effects))
    return effect, effect - half, effect + half


def _variance_of_mean(values: Sequence[float]) -> float:
    return float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0


def runs_needed(seed_effects: Sequence[float]) -> int | None:
    """Seeds per method that resolve an effect of the observed size with 80 % probability at the 95 % level.

    With mean ``d`` and standard deviation ``s`` of the effects per seed: the smallest ``n`` with
    ``|d| sqrt(n) / s >= t_0.975 + t_0.8`` at ``n - 1`` degrees of freedom, of a paired t-test.

    Example:
        >>> runs_needed([0.0, 0.2])  # d = 0.1, s = 0.1414: 18 > (2.110 + 0.863)^2 * 2
        18
    """
    effect = abs(float(np.mean(seed_effects)))
    spread = float(np.std(seed_effects, ddof=1)) if len(seed_effects) > 1 else 0.0
    if effect < EQUAL or spread < EQUAL:
        return None

    def enough(n: int) -> bool:
        return effect * math.sqrt(n) >= spread * (student_quantile(LEVEL, n - 1) + student_quantile(POWER, n - 1))

    return bisect.bisect_left(range(MOST), True, lo=2, key=enough) if enough(MOST) else None


def _compare_blocks(metric: Metric, pair: tuple[Side, Side], results: Results) -> list[Comparison]:
    """Compare a method (second of the pair) with the baseline (first), on each base policy that both have."""
    baseline, method = pair
    cell, names = method.cell, (baseline.method, method.method)
    comparisons: list[Comparison] = []
    left_out: list[str] = []
    for block in sorted({block for side in pair for block, _ in side.values}):
        values = [{unit: tasks for unit, tasks in values.items() if unit[0] == block} for _, _, values in pair]
        own = Side(*baseline[:2], values[0]), Side(*method[:2], values[1])
        if paired := paired_differences(*values):
            one = _compare(metric, own, block, paired, results)
            mixed, played = results.mixed(block, names), results.played(block, names)
            comparisons.append(replace(one, mixed=mixed, remarks=played))
            continue
        having = [name for name, there in zip(names, values, strict=True) if there]
        why = f"only {having[0]} has results" if len(having) == 1 else f"{' and '.join(having)} share no seed and task"
        left_out.append(f"Not compared at {cell[1]} turns ({cell[0]}), block {block!r}: {why} there.")
    if not comparisons:
        raise HeroError(
            f"{names[1]!r} and {names[0]!r} share no seed with a common task at {cell[1]} turns ({cell[0]}): "
            f"{', '.join(map(unit_name, sorted(method.values)))} and "
            f"{', '.join(map(unit_name, sorted(baseline.values)))}. "
            "Evaluate both on the same tasks with the same seeds, or leave one of them out: --methods with the others."
        )
    return [replace(one, remarks=(*one.remarks, *left_out)) for one in comparisons]


def _compare(
    metric: Metric,
    pair: tuple[Side, Side],
    block: str,
    differences: Mapping[Unit, Mapping[str, float]],
    results: Results,
) -> Comparison:
    baseline, method = pair
    cell, solved_by_nothing = method.cell, results.solved_by_nothing
    pairs = [_pairs(side.values) for side in pair]
    common = pairs[0] & pairs[1]
    keys = [(side.method, side.cell, block) for side in pair]
    effect, low, high = effect_interval(list(differences.values()))
    of_seeds = [float(np.mean(list(tasks.values()))) for tasks in differences.values()]
    means = [_mean(side.values, common) for side in pair]
    floor = [solved_by_nothing[task] for _, task in sorted(common) if task in solved_by_nothing]
    return Comparison(
        stage=cell[0],
        turns_budget=cell[1],
        user=cell[2],
        metric=metric,
        baseline=baseline.method,
        method=method.method,
        block=block,
        seeds=len(differences),
        tasks=len({task for _, task in common}),
        unpaired_of=frozenset(
            (side.method, side.cell, *one) for side, own in zip(pair, pairs, strict=True) for one in own - common
        ),
        broken_of={key: results.broken[key] for key in keys if results.broken[key]},
        floor=float(np.mean(floor)) if floor else None,
        baseline_mean=means[0],
        method_mean=means[1],
        effect=effect,
        low=low,
        high=high,
        runs_needed=runs_needed(of_seeds),
        equal_seeds=max(of_seeds) - min(of_seeds) < EQUAL,
    )


def _pairs(values: Values) -> set[tuple[Unit, str]]:
    return {(unit, task) for unit, tasks in values.items() for task in tasks}


def _mean(values: Values, common: set[tuple[Unit, str]]) -> float:
    """Mean over runs of the mean over tasks of the mean over episodes."""
    by_run: dict[Unit, list[float]] = {}
    for unit, task in sorted(common):
        by_run.setdefault(unit, []).append(float(np.mean(values[unit][task])))
    return float(np.mean([np.mean(tasks) for tasks in by_run.values()]))
