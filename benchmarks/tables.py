"""Tables and curves of the results of a grid; everything is computed from the rows of its ``results.csv``.

Intervals are 95 % intervals of the mean over runs by Student's t, cut off at 0 and 1 where the value is a share. Runs
differ in seed and, where several were given, in base policy.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from methods import BASE, METHODS

from hero_pl.runs.intervals import mean_interval
from hero_pl.runs.tables import markdown

Row = Mapping[str, str]
SHARES = ("success", "success_greedy", "reward")
COSTS = {
    "success_greedy": "greedy success",
    "reward": "reward",
    "turns": "turns per episode",
    "invalid": "invalid replies per episode",
    "steps": "optimizer steps",
    "acting_tokens": "tokens acting",
    "reflecting_tokens": "tokens reflecting",
    "teaching_tokens": "tokens teaching",
    "train_cpu_s": "CPU s of training",
    "wall_s": "wall s of the run",
}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a ``results.csv``."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows; the columns are those of the first row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def of(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Rows with these values."""
    return [row for row in rows if all(row.get(key) == str(value) for key, value in wanted.items())]


def distinct(rows: Iterable[Row], column: str) -> list[str]:
    """Values of a column in the order of their first row; methods in the order of the table."""
    found = list(dict.fromkeys(row.get(column, "") for row in rows))
    return (
        [*(m for m in METHODS if m in found), *(m for m in found if m not in METHODS)] if column == "method" else found
    )


def numbers(rows: Iterable[Row], column: str) -> list[float]:
    """The non-empty cells of a column."""
    return [float(row[column]) for row in rows if row.get(column)]


def budgets(rows: Iterable[Row]) -> list[int]:
    """All budgets, including 0."""
    return sorted({int(row["budget"]) for row in rows})


def title(method: str) -> str:
    """Name of a method in a table."""
    return METHODS[method].title if method in METHODS else method


def arms(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Method and learning rate of each arm -> its name; the rate is named if a method has several."""
    found = {
        (method, rate): title(method)
        for method in distinct(rows, "method")
        for rate in distinct(of(rows, method=method), "lr")
    }
    counts = Counter(method for method, rate in found if rate)
    return {arm: f"{name}, {arm[1]}" if counts[arm[0]] > 1 and arm[1] else name for arm, name in found.items()}


def of_arm(rows: Iterable[Row], method: str, rate: str) -> list[Row]:
    """Rows of a method at a learning rate."""
    return [row for row in rows if (row["method"], row.get("lr", "")) == (method, rate)]


def summary(values: Sequence[float], share: bool = True, runs: int | None = None) -> str:
    """Mean, 95 % interval, minimum and maximum; also the number of values if it differs from that of the runs."""
    if not values:
        return "not run"
    mean, fewer = statistics.fmean(values), "" if runs in (None, len(values)) else f", {len(values)} of {runs} runs"
    if len(values) == 1:
        return f"{mean:.2f}{fewer}"
    low, high = mean_interval(values)
    if math.isinf(low):
        return f"{mean:.2f} (all {len(values)} alike){fewer}"
    if share:
        low, high = max(0.0, low), min(1.0, high)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}] ({min(values):.2f} to {max(values):.2f}){fewer}"


def value_table(rows: Sequence[Row], column: str = "success", marks: Sequence[int] | None = None) -> str:
    """One row per method (and rate, if a method has several), one column per budget."""
    marks = list(marks) if marks else budgets(rows)
    floor = statistics.fmean(found) if (found := numbers(rows, "do_nothing_floor")) else None
    body = [] if floor is None or column not in SHARES else [["doing nothing", "", "", *[f"{floor:.2f}"] * len(marks)]]
    for method, rate in arms(rows):
        mine = of_arm(rows, method, rate)
        runs = {(row.get("base"), row["seed"]) for row in mine}
        crashed = {(row.get("base"), row["seed"]) for row in mine if row.get("status", "done") == "crashed"}
        cells = [
            summary(numbers(of(mine, budget=0 if method == BASE else mark), column), column in SHARES, len(runs))
            for mark in marks
        ]
        tuned = " tuned" if mine[0].get("tuned") == "True" else ""
        count = f"{len(runs)}" + (f", {len(crashed)} crashed" if crashed else "")
        body.append([title(method), f"{rate}{tuned}" if rate else "", count, *cells])
    return markdown(["method", "lr", "runs", *map(str, marks)], body)


def cost_table(rows: Sequence[Row], mark: int | None = None) -> str:
    """Costs of each method up to a budget (default: the largest); means over runs."""
    mark = max(budgets(rows)) if mark is None else mark
    columns = [column for column in COSTS if any(row.get(column) for row in rows)]
    body, names = [], arms(rows)
    for method, rate in names:
        mine = of(of_arm(rows, method, rate), budget=0 if method == BASE else mark)
        cells = []
        for column in columns:
            values = numbers(mine, column)
            mean = statistics.fmean(values) if values else math.nan
            cells.append("" if not values else f"{mean:,.0f}" if mean >= 100 else f"{mean:.2f}")
        body.append([names[method, rate], *cells])
    return markdown([f"at {mark} turns", *(COSTS[column] for column in columns)], body)


def run_table(rows: Sequence[Row], column: str = "success") -> str:
    """All runs, including those that collapsed, crashed or were not run; with their held-out tasks if these differ."""
    marks = budgets(rows)
    body = []
    differ = len({row.get("episodes") for row in rows if row.get("episodes")}) > 1
    runs = dict.fromkeys((row["method"], row.get("base", ""), row.get("lr", ""), row["seed"]) for row in rows)
    order = distinct(rows, "method")
    for method, base, rate, seed in sorted(runs, key=lambda run: order.index(run[0])):
        mine = [
            row
            for row in rows
            if (row["method"], row.get("base", ""), row.get("lr", ""), row["seed"]) == (method, base, rate, seed)
        ]
        cells = [f"{value:.2f}" if (value := _one(mine, mark, column)) is not None else "" for mark in marks]
        status = mine[0].get("status", "done")
        error = mine[0].get("error", "")
        tasks = [mine[0].get("episodes", "")] if differ else []
        body.append([title(method), base, rate, seed, *tasks, *cells, f"{status}: {error}" if error else status])
    head = ["method", "base policy", "lr", "seed", *(["tasks"] if differ else []), *map(str, marks), "status"]
    return markdown(head, body)


def tuning_table(rows: Sequence[Row]) -> str:
    """Every rate of every method on the validation split, the chosen one marked."""
    body = []
    for method in distinct(rows, "method"):
        scores = rates(rows, method)
        best = choose(rows, method)
        body.append(
            [title(method), *(f"{score:.3f}{' (chosen)' if rate == best else ''}" for rate, score in scores.items())]
        )
    return markdown(["mean success over budgets, by learning rate", *distinct(rows, "lr")], body)


def rates(rows: Sequence[Row], method: str) -> dict[str, float]:
    """Mean success over budgets, seeds and base policies by rate; a budget that a run did not reach counts as 0."""
    found = {}
    for rate in distinct(rows, "lr"):
        mine = [row for row in rows if row["method"] == method and row["lr"] == rate and row["budget"] != "0"]
        if mine:
            found[rate] = statistics.fmean(float(row["success"] or 0.0) for row in mine)
    return found


def choose(rows: Sequence[Row], method: str) -> str:
    """The rate with the highest mean; on a tie the smaller one."""
    scores = rates(rows, method)
    return min(scores, key=lambda rate: (-scores[rate], float(rate)))


def report(rows: Sequence[Row], says: str = "") -> str:
    """The whole Markdown page of a grid."""
    users = ", ".join(name for name in distinct(rows, "user") if name)
    says = f"{says} Played with the user {users}." if users else says
    parts = [says, "Mean success, 95 % interval over runs (Student's t), smallest to largest run.", value_table(rows)]
    bases = distinct(rows, "base")
    if len(bases) > 1:
        for base in bases:
            parts += [f"Base policy {base}:", value_table(of(rows, base=base))]
    if any(row.get("success_greedy") for row in rows):
        parts += ["The same with greedy decoding:", value_table(rows, "success_greedy")]
    parts += ["What it took, means over runs:", cost_table(rows), "Every run:", run_table(rows)]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def draw(rows: Sequence[Row], out: Path) -> None:
    """Curves of success, greedy success and turns per episode over the budgets, with 95 % bands over runs.

    A point is the mean of all runs that did not crash; a budget at which one of them was not evaluated has none.
    """
    import numpy as np

    from hero_pl.runs.plots import Curve, Panel, draw_methods

    marks = budgets(rows)
    methods: dict[str, list[dict[str, Curve]]] = {}
    for (method, rate), name in arms(rows).items():
        runs: dict[tuple[str, str], list[Row]] = {}
        for row in of_arm(rows, method, rate):
            runs.setdefault((row.get("base", ""), row["seed"]), []).append(row)
        crashed = {run for run, mine in runs.items() if mine[0].get("status", "done") == "crashed"}
        curves: dict[tuple[str, str], dict[str, Curve]] = {run: {} for run in runs}
        for column in ("success", "success_greedy", "turns"):
            points = {
                run: {mark: _one(mine, 0 if method == BASE else mark, column) for mark in marks}
                for run, mine in runs.items()
                if run not in crashed
            }
            common = [mark for mark in marks if points and all(one[mark] is not None for one in points.values())]
            for run, values in points.items():
                if common:
                    curves[run][column] = Curve(np.array(common, float), np.array([values[m] for m in common], float))
        methods[name] = list(curves.values())
    panels = (
        Panel("success", ("success",), 0.0, 1.0),
        Panel("greedy success", ("success_greedy",), 0.0, 1.0),
        Panel("turns per episode", ("turns",), 0.0),
    )
    positive = [mark for mark in marks if mark]
    wide = bool(positive) and positive[-1] >= 20 * positive[0]
    draw_methods(methods, out, panels, float(positive[0]) if wide else None)


def _one(rows: Sequence[Row], mark: int, column: str) -> float | None:
    values = numbers(of(rows, budget=mark), column)
    return values[0] if values else None
