"""What was evaluated: every run folder holds ``eval.jsonl`` with one object per evaluated episode.

Its fields are ``stage``, ``turns_budget``, ``seed``, ``method``, ``task_id``, ``success``, ``reward`` and ``turns``;
where they apply also ``user`` (the kind of user simulator), ``evaluable``, ``do_nothing_succeeds``, and ``block``, for
example the base policy that the run started from. A *run* of a method is one block and seed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hero_pl.errors import HeroError
from hero_pl.runs.folders import must_exist
from hero_pl.runs.jsonl import read_lines
from hero_pl.runs.records import RECORDS_FILE

Metric: TypeAlias = Literal["success", "reward", "turns"]
METRICS: tuple[Metric, ...] = ("success", "reward", "turns")
EVAL_FILE = "eval.jsonl"

Cell: TypeAlias = tuple[str, int, str]
"""Stage, turns budget and kind of user (empty without one): only equal ones are compared."""
Unit: TypeAlias = tuple[str, int]
"""Block and seed: what makes two runs of different methods a pair."""
Values: TypeAlias = dict[Unit, dict[str, list[float]]]
"""Block and seed -> task id -> the value of every episode."""


@dataclass(slots=True)
class Results:
    """What the evaluation files of several runs hold."""

    methods: dict[str, dict[Cell, Values]] = field(default_factory=dict)
    broken: Counter[tuple[str, Cell]] = field(default_factory=Counter)
    """Episodes that the environment or its user broke, by method and cell; they have no value."""
    solved_by_nothing: dict[str, bool] = field(default_factory=dict)
    """Task id -> whether doing nothing succeeds, where the environment tells."""


def load_results(runs: Sequence[Path], metric: Metric) -> Results:
    """Read the runs: folders that are searched, or files.

    Raises:
        HeroError: A file cannot be read, a line lacks a field, or two files hold the same method, seed and budget.
    """
    results = Results()
    source: dict[tuple[str, Cell, Unit], Path] = {}
    for path in find_results(runs):
        empty = True
        for number, row in read_lines(path):
            method, cell, unit, task, value = _row(path, number, row, metric)
            owner = source.setdefault((method, cell, unit), path)
            if owner != path:
                raise HeroError(
                    f"{owner} and {path} both hold {method!r} with {unit_name(unit)} at {cell[1]} turns ({cell[0]}). "
                    "Leave one of them out, or give the runs different seeds or names."
                )
            empty = False
            if value is None:
                results.broken[method, cell] += 1
                continue
            if "do_nothing_succeeds" in row:
                results.solved_by_nothing[task] = bool(row["do_nothing_succeeds"])
            tasks = results.methods.setdefault(method, {}).setdefault(cell, {}).setdefault(unit, {})
            tasks.setdefault(task, []).append(value)
        if empty:
            raise HeroError(f"{path}: holds no evaluated episode. Did the run end before its evaluation?")
    if not results.methods and results.broken:
        raise HeroError(
            f"All {results.broken.total()} episodes of the runs were broken by the environment or its user, so there "
            f"is nothing to compare. The reasons are in their {RECORDS_FILE}."
        )
    if not results.methods:
        raise HeroError("No runs were given. Name run folders: hero_pl compare runs/a runs/b")
    return results


def find_results(runs: Sequence[Path]) -> list[Path]:
    """The ``eval.jsonl`` files of the runs, each once; a folder without one is searched.

    Raises:
        ConfigError: There is no such folder or file.
        HeroError: A folder has none.
    """
    found: dict[Path, None] = {}
    for run in runs:
        must_exist(run, "run", f"Name a folder that hero_pl fit wrote, or an {EVAL_FILE}.")
        paths = [run / EVAL_FILE] if (run / EVAL_FILE).exists() else sorted(run.rglob(EVAL_FILE))
        if run.is_dir() and not paths:
            raise HeroError(f"{run}: no {EVAL_FILE} in it. Give folders of runs with held_out.episodes above 0.")
        found.update(dict.fromkeys(paths if run.is_dir() else [run]))
    return list(found)


def unit_name(unit: Unit) -> str:
    """A run in words."""
    return f"seed {unit[1]}" + (f" of {unit[0]}" if unit[0] else "")


def _row(path: Path, number: int, row: Mapping[str, Any], metric: Metric) -> tuple[str, Cell, Unit, str, float | None]:
    """The fields that are needed, checked; no value if the episode was broken."""
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
        raise HeroError(f"{path}, line {number}: {metric} is {value}; expected a finite number. Evaluate again.")
    cell = (row["stage"], row["turns_budget"], str(row.get("user", "")))
    unit = (row["block"], row["seed"])
    return row["method"], cell, unit, row["task_id"], value if row.get("evaluable", True) else None
