"""Compare runs task by task: is the difference between two methods bigger than their noise?

Two methods are compared on the runs (block and seed) and tasks that both have (a paired comparison), at equal stage and
budget and with the same kind of user simulator.

The interval is a two-level bootstrap: runs are drawn with replacement, then tasks within each drawn run (Davison and
Hinkley, Bootstrap Methods and their Application, section 3.8). It has no model of the noise between runs beyond those
that were made: below five it can be too narrow, and with a single one it speaks about the tasks alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hero_pl.errors import ConfigError, HeroError
from hero_pl.results import METRICS, Cell, Metric, Unit, Values, load_results, unit_name

FEW_SEEDS = 5

Z_INTERVAL = 1.959964
"""97.5 % quantile of the standard normal distribution: a 95 % interval that leaves 0 out."""
Z_POWER = 0.841621
"""80 % quantile: the chance of seeing an effect that is there."""


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
    seeds: int
    """Runs (seeds, of every block) that both have."""
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
    """Ends of the 95 % interval of the effect."""
    runs_needed: int | None
    """Seeds per method at which an effect of this size is resolved with 80 % chance; ``None`` when one seed cannot tell
    or when there is no effect."""

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0.0 or self.high < 0.0

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
    resamples: int = 10_000,
    budget: int | None = None,
    stage: str | None = None,
) -> list[Comparison]:
    """Compare every method in the runs with the baseline.

    Args:
        runs: Folders that are searched for ``eval.jsonl`` (one run, or a grid of runs), or such files.
        baseline: Name of the method to compare with; the first method read when not given. Where it was only evaluated
            at a budget of 0 turns (an untrained policy), it is compared with every budget.
        metric: What is averaged: ``success``, ``reward`` or ``turns``.
        resamples: Number of bootstrap draws.
        budget: Compare at this turns budget only.
        stage: Compare at this stage only: ``test`` or ``validate``.

    Raises:
        ConfigError: The baseline, the budget, the stage or the metric is unknown, or ``resamples`` is too small.
        HeroError: A run has no results, a line is unusable, two runs are the same, or nothing can be paired.
    """
    if metric not in METRICS:
        raise ConfigError(f"metric is {metric!r}; give one of {', '.join(METRICS)}.")
    if resamples < 100:
        raise ConfigError(f"resamples is {resamples}; an interval needs at least 100, 10000 are usual.")
    results = load_results(runs, metric)
    methods = results.methods
    first = baseline if baseline is not None else next(iter(methods))
    if first not in methods:
        raise ConfigError(f"No run of the baseline {first!r}. The runs hold: {', '.join(methods)}.")
    if len(methods) < 2:
        raise HeroError(f"The runs hold one method only ({first}). Name runs of at least two: hero_pl compare RUN RUN")
    comparisons = []
    for method, cells in methods.items():
        if method == first:
            continue
        for cell, values in sorted(cells.items()):
            if budget not in (None, cell[1]) or stage not in (None, cell[0]):
                continue
            other = next((c for c in (cell, (cell[0], 0, cell[2])) if c in methods[first]), None)
            if other is not None:
                pair = ((first, methods[first][other]), (method, values))
                broken = results.broken[method, cell] + results.broken[first, other]
                comparisons.append(_compare(cell, metric, pair, resamples, results.solved_by_nothing, broken))
            else:
                _refuse_other_users(cell, method, first, methods[first])
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
    others = sorted({user for stage, turns, user in cells if stage == cell[0] and turns in (cell[1], 0)})
    if others:
        raise HeroError(
            f"{method!r} was evaluated with the user {cell[2] or 'none'}, {first!r} with {', '.join(others) or 'none'} "
            f"({cell[0]}, {cell[1]} turns). Scores with different users are not comparable. Evaluate both with one."
        )


def paired_differences(baseline: Values, method: Values) -> dict[Unit, NDArray[np.float64]]:
    """Per run that both have, the differences of the task means over the tasks that both have.

    Returns:
        Block and seed -> array of shape ``(tasks,)``, in the order of the task ids.
    """
    differences = {}
    for unit in sorted(baseline.keys() & method.keys()):
        tasks = sorted(baseline[unit].keys() & method[unit].keys())
        if tasks:
            differences[unit] = np.array([np.mean(method[unit][t]) - np.mean(baseline[unit][t]) for t in tasks])
    return differences


def bootstrap(differences: Sequence[NDArray[np.float64]], resamples: int, seed: int = 0) -> NDArray[np.float64]:
    """Mean effects after drawing seeds with replacement, then tasks within each drawn seed.

    Args:
        differences: One array of shape ``(tasks,)`` per seed.
        resamples: Number of draws.
        seed: Of the generator, so that the same runs give the same interval.

    Returns:
        ``(resamples,)``.
    """
    generator = np.random.default_rng(seed)
    total = np.zeros(resamples)
    for _ in differences:  # one place of the drawn set of seeds after the other
        drawn = generator.integers(len(differences), size=resamples)
        for i, values in enumerate(differences):
            rows = np.flatnonzero(drawn == i)
            for part in np.array_split(rows, 1 + len(rows) * len(values) // 4_000_000):  # at most about 64 MB at once
                picks = generator.integers(len(values), size=(len(part), len(values)))
                total[part] += values[picks].mean(axis=1)
    return total / len(differences)


def runs_needed(seed_effects: Sequence[float]) -> int | None:
    """Seeds per method that resolve an effect of the observed size with 80 % chance at the 95 % level.

    With mean ``d`` and standard deviation ``s`` of the effects per seed, the normal approximation of a paired test asks
    for ``n = ((z_0.975 + z_0.8) s / d)^2``, and a spread cannot be seen with fewer than two.

    Example:
        >>> runs_needed([0.0, 0.2])  # d = 0.1, s = 0.1414: (2.8016 * 1.4142)^2 = 15.7
        16
    """
    effect = float(np.mean(seed_effects))
    if len(seed_effects) < 2 or abs(effect) < 1e-12:
        return None
    spread = float(np.std(seed_effects, ddof=1))
    return max(2, math.ceil(((Z_INTERVAL + Z_POWER) * spread / effect) ** 2))


def to_table(comparisons: Sequence[Comparison]) -> Table:
    """For the terminal: two lines per comparison, so that it fits into 80 columns."""
    table = Table(title=f"{comparisons[0].metric}, 95 % interval" if comparisons else None, box=SIMPLE)
    table.add_column("stage\nbudget")
    table.add_column("method\nagainst")
    for head in ("seeds\ntasks", "mean", "effect", "verdict", "runs\nneeded"):
        table.add_column(head, no_wrap=True)
    for one in comparisons:
        stage, budget, method, baseline, seeds, tasks, _, effect, verdict, needed, floor, user = _cells(one)
        cells = (
            f"{stage}\n{budget}" + (f"\n{user}" if one.user else ""),
            f"{method}\n{baseline}",
            f"{seeds}\n{tasks}",
            f"{one.method_mean:.3f}\n{one.baseline_mean:.3f}",
            effect.replace(" [", "\n["),
            verdict if one.floor is None else f"{verdict}\n(nothing: {floor})",
            needed,
        )
        table.add_row(*(Text(cell) for cell in cells), style="" if one.resolved else "dim")
    return table


def to_markdown(comparisons: Sequence[Comparison]) -> str:
    """For a document; ends with the notes."""
    rows = [_HEAD, ["---"] * len(_HEAD), *(_cells(one) for one in comparisons)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([*lines, "", *notes(comparisons), ""])


def notes(comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader must know beside the figures."""
    said = ["Runs needed: seeds per method that resolve an effect of this size with 80 % chance."]
    if any(one.seeds == 1 for one in comparisons):
        said.append("One seed: the interval covers the choice of tasks only, not the noise between training runs.")
    if any(1 < one.seeds < FEW_SEEDS for one in comparisons):
        said.append(f"Fewer than {FEW_SEEDS} seeds: the interval can be too narrow.")
    left_out = sum(one.unpaired for one in comparisons)
    if left_out:
        said.append(f"{left_out} results without a partner of the same seed and task were left out.")
    broken = sum(one.broken for one in comparisons)
    if broken:
        said.append(f"{broken} episodes that the environment or its user broke were left out.")
    if any(one.floor is not None for one in comparisons):
        said.append("Doing nothing: the success of an agent that ends each of these dialogues at once.")
    if any(one.user for one in comparisons):
        said.append("Scores with different kinds of users are not comparable; each row has one kind.")
    return said


def print_comparison(comparisons: Sequence[Comparison], console: Console | None = None) -> None:
    """Print the table and its notes."""
    console = console or Console()
    console.print(to_table(comparisons))
    for note in notes(comparisons):
        console.print(Text(note))


_HEAD = ["stage", "budget", "method", "baseline", "seeds", "tasks", "means", "effect", "verdict", "runs needed"]
_HEAD += ["doing nothing", "user"]  # the same width for every environment, so that tables can be joined


def _cells(one: Comparison) -> list[str]:
    """One row of either table."""
    return [
        one.stage,
        str(one.turns_budget),
        one.method,
        one.baseline,
        str(one.seeds),
        str(one.tasks),
        f"{one.method_mean:.3f} vs {one.baseline_mean:.3f}",
        f"{one.effect:+.3f} [{one.low:+.3f}, {one.high:+.3f}]",
        one.verdict,
        "unknown" if one.runs_needed is None else str(one.runs_needed),
        "-" if one.floor is None else f"{one.floor:.3f}",
        one.user or "-",
    ]


def _compare(
    cell: Cell,
    metric: Metric,
    pair: tuple[tuple[str, Values], tuple[str, Values]],
    resamples: int,
    solved_by_nothing: Mapping[str, bool],
    broken: int,
) -> Comparison:
    """One method, the second of the pair, against the baseline."""
    baseline, method = pair
    differences = paired_differences(baseline[1], method[1])
    if not differences:
        raise HeroError(
            f"{method[0]!r} and {baseline[0]!r} share no seed with a common task at {cell[1]} turns ({cell[0]}): "
            f"{', '.join(map(unit_name, sorted(method[1])))} and {', '.join(map(unit_name, sorted(baseline[1])))}. "
            "Evaluate both on the same tasks with the same seeds."
        )
    pairs = [_pairs(values) for values in (baseline[1], method[1])]
    common = pairs[0] & pairs[1]
    draws = bootstrap(list(differences.values()), resamples)
    low, high = np.quantile(draws, [0.025, 0.975])
    effects = [float(values.mean()) for values in differences.values()]
    means = [_mean(values[1], common) for values in (baseline, method)]
    floor = [solved_by_nothing[task] for _, task in sorted(common) if task in solved_by_nothing]
    return Comparison(
        stage=cell[0],
        turns_budget=cell[1],
        user=cell[2],
        metric=metric,
        baseline=baseline[0],
        method=method[0],
        seeds=len(differences),
        tasks=len({task for _, task in common}),
        unpaired=len(pairs[0] ^ pairs[1]),
        broken=broken,
        floor=float(np.mean(floor)) if floor else None,
        baseline_mean=means[0],
        method_mean=means[1],
        effect=float(np.mean(effects)),
        low=float(low),
        high=float(high),
        runs_needed=runs_needed(effects),
    )


def _pairs(values: Values) -> set[tuple[Unit, str]]:
    return {(unit, task) for unit, tasks in values.items() for task in tasks}


def _mean(values: Values, common: set[tuple[Unit, str]]) -> float:
    """Mean over runs of the mean over tasks of the mean over episodes."""
    by_run: dict[Unit, list[float]] = {}
    for unit, task in sorted(common):
        by_run.setdefault(unit, []).append(float(np.mean(values[unit][task])))
    return float(np.mean([np.mean(tasks) for tasks in by_run.values()]))
