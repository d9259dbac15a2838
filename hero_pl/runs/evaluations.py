"""Read ``eval.jsonl``, the file of a run folder with one JSON object per evaluated episode.

Its fields are ``stage``, ``turns_budget``, ``seed``, ``method``, ``task_id``, ``success``, ``reward`` and ``turns``;
where they apply also ``user`` (the kind of user simulator), ``evaluable``, ``do_nothing_succeeds``, and ``block``, for
example the base policy that the run started from. A *run* of a method is one block and seed.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hero_pl.errors import HeroError
from hero_pl.runs.folders import must_exist
from hero_pl.runs.jsonl import read_lines
from hero_pl.runs.records import RECORDS_FILE
from hero_pl.runs.settings import OTHER_NAME, PLAYED, decisive, differences, read_settings

Metric: TypeAlias = Literal["success", "reward", "turns"]
METRICS: tuple[Metric, ...] = ("success", "reward", "turns")
EVAL_FILE = "eval.jsonl"

Cell: TypeAlias = tuple[str, int, str]
"""Stage, turns budget and kind of user (empty without one); only results with equal cells are compared."""
Unit: TypeAlias = tuple[str, int]
"""Block and seed; runs of different methods with the same unit form a pair."""
Values: TypeAlias = dict[Unit, dict[str, list[float]]]
"""Mapping from block and seed to a mapping from task id to the values of its episodes."""


@dataclass(slots=True)
class Results:
    """Contents of the evaluation files of several runs."""

    methods: dict[str, dict[Cell, Values]] = field(default_factory=dict)
    broken: Counter[tuple[str, Cell, str]] = field(default_factory=Counter)
    """Episodes that ended with an error of the environment or its user, per method, cell and block; they have no value.
    """
    solved_by_nothing: dict[str, bool] = field(default_factory=dict)
    """Task id -> whether doing nothing succeeds; only for environments that report it."""
    settings: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    """Method and block -> the settings of each of its runs that decide the results."""
    known: dict[str, None] = field(default_factory=dict)
    """All methods in the files, also those that were not asked for, in the order read."""

    def mixed(self, block: str, methods: Sequence[str]) -> tuple[str, ...]:
        """What differs between runs that are averaged as one method."""
        return tuple(
            f"{method}: {key} is {' and '.join(map(repr, values))}"
            for method in methods
            for key, values in differences(self.settings.get((method, block), [])).items()
        )

    def played(self, block: str, methods: tuple[str, str]) -> tuple[str, ...]:
        """How the episodes of two methods were played in different ways, in whole sentences."""
        notes = []
        for key in PLAYED:
            first, second = (
                " or ".join(sorted({str(run[key]) for run in self.settings.get((method, block), []) if key in run}))
                for method in methods
            )
            if first and second and first != second:
                told = f"{first} for {methods[0]} and {second} for {methods[1]}"
                notes.append(f"The evaluations differ, so the effect is not that of the method alone: {key} is {told}.")
        return tuple(notes)


def load_results(runs: Sequence[Path], metric: Metric, only: Collection[str] = ()) -> Results:
    """Read the evaluation files of runs; each path is such a file or a folder that is searched for them.

    Args:
        runs: Files and folders.
        metric: Value of an episode.
        only: Methods to read; empty for all.

    Raises:
        HeroError: A file cannot be read, a line lacks a field, or two files hold the same method, seed and budget.
    """
    results = Results()
    source: dict[tuple[str, Cell, Unit], Path] = {}
    for path in find_results(runs):
        empty, mine = True, set[tuple[str, Unit]]()
        numbered = list(read_lines(path))
        checked = [_row(path, number, row, metric) for number, row in numbered]
        rows = [row for _, row in numbered]
        for row, cell, (method, unit, task, value) in zip(rows, cells_of(rows), checked, strict=True):
            empty = False
            results.known.setdefault(method)
            if only and method not in only:
                continue
            if (method, unit) not in mine:
                mine.add((method, unit))
                settings = decisive(read_settings(path.parent))
                results.settings.setdefault((method, unit[0]), []).append(settings)
            owner = source.setdefault((method, cell, unit), path)
            if owner != path:
                raise HeroError(
                    f"{owner} and {path} both hold {method!r}, {unit_name(unit)}, at {cell[1]} turns ({cell[0]}). "
                    "Leave one of them out (for a method that is not of interest: --methods with the others), or train "
                    f"one with another seed, or, if it is another method, under {OTHER_NAME}."
                )
            if value is None:
                results.broken[method, cell, unit[0]] += 1
                continue
            if "do_nothing_succeeds" in row:
                results.solved_by_nothing[task] = bool(row["do_nothing_succeeds"])
            tasks = results.methods.setdefault(method, {}).setdefault(cell, {}).setdefault(unit, {})
            tasks.setdefault(task, []).append(value)
        if empty:
            raise HeroError(
                f"{path} has no evaluated episode. The run probably ended before its first evaluation. Leave it out, "
                "or resume it."
            )
    if not results.methods and results.broken:
        raise HeroError(
            f"All {results.broken.total()} episodes of the runs ended with an error of the environment or its user, "
            f"so there is nothing to compare. See the errors in the {RECORDS_FILE} of the runs."
        )
    if not results.known:
        raise HeroError("No runs were given. Give run folders: hero_pl compare runs/a runs/b")
    return results


def find_results(runs: Sequence[Path]) -> list[Path]:
    """The ``eval.jsonl`` files of the runs, each once; a folder without one is searched recursively.

    Raises:
        ConfigError: A folder or file does not exist.
        HeroError: A folder has no such file.
    """
    files: dict[Path, None] = {}
    for run in runs:
        must_exist(run, "run", f"Give a folder that hero_pl fit wrote, or an {EVAL_FILE}.")
        paths = [run / EVAL_FILE] if (run / EVAL_FILE).exists() else sorted(run.rglob(EVAL_FILE))
        if run.is_dir() and not paths:
            raise HeroError(f"{run} contains no {EVAL_FILE}. Give the folder of a run with held_out.episodes above 0.")
        files.update(dict.fromkeys(paths if run.is_dir() else [run]))
    return list(files)


def cells_of(rows: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """The cell of each row of one file; the rows have been checked.

    An episode that broke at its start knows no user, because the environment reports it there. It has the user of the
    other episodes with its stage and budget, else of those with its stage, if there is just one.
    """
    cells: list[Cell] = [(row["stage"], row["turns_budget"], str(row.get("user", ""))) for row in rows]
    users: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    unknown = [not user and not row.get("evaluable", True) for row, (_, _, user) in zip(rows, cells, strict=True)]
    for (stage, budget, user), missing in zip(cells, unknown, strict=True):
        if not missing:
            users[stage, budget].add(user)
            users[stage,].add(user)
    for i, (stage, budget, _) in enumerate(cells):
        others = users.get((stage, budget)) or users.get((stage,), set())
        if unknown[i] and len(others) == 1:
            cells[i] = (stage, budget, next(iter(others)))
    return cells


def unit_name(unit: Unit) -> str:
    """Text that names a run in messages."""
    return f"seed {unit[1]}" + (f" of {unit[0]}" if unit[0] else "")


def _row(path: Path, number: int, row: Mapping[str, Any], metric: Metric) -> tuple[str, Unit, str, float | None]:
    """Check and return the fields used here; the value is ``None`` if the episode is not evaluable."""
    row = {"block": "", **row}
    kinds: dict[str, tuple[type, ...]] = {
        "stage": (str,),
        "turns_budget": (int,),
        "seed": (int,),
        "method": (str,),
        "task_id": (str,),
        "block": (str,),
        metric: (bool,) if metric == "success" else (int, float),
    }
    for name, accepted in kinds.items():
        given = row.get(name)
        if not isinstance(given, accepted) or (isinstance(given, bool) and bool not in accepted):
            wanted = " or ".join(kind.__name__ for kind in accepted)
            raise HeroError(
                f"{path}, line {number}: {name} is {given!r}; expected {wanted}. "
                "Every line of this file describes one evaluated episode."
            )
    value = float(row[metric])
    if not math.isfinite(value):
        raise HeroError(
            f"{path}, line {number}: {metric} is {value}; expected a finite number. Remove the line or evaluate again."
        )
    unit = (row["block"], row["seed"])
    return row["method"], unit, row["task_id"], value if row.get("evaluable", True) else None
