"""Files of an annotation: rows for the raters, the key that they must not see, labeled rows, the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from hero_pl.annotate.quality import QUESTIONS, sample_turns
from hero_pl.errors import HeroError
from hero_pl.reflection.controls import ShuffledReflector
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.runs.folders import one_run
from hero_pl.runs.jsonl import append_lines, read_lines
from hero_pl.runs.records import read_records

Report = Mapping[str, Mapping[str, float]]


def draw(run: Path, turns: int, seed: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows and key of turns drawn from the reflected episodes of a run, true and shuffled diagnoses of each.

    Raises:
        HeroError: There is no run, more than one, or it has no reflections.
    """
    path = one_run(run)
    records = [record for record in read_records(path) if record.reflection is not None]
    if not any(any(record.reflection.diagnoses) for record in records if record.reflection):
        raise HeroError(
            f"{path}: no episode in it has diagnoses. Train with trajectories.every_n_steps above 0 and an objective "
            "with a reflector, for example: hero_pl fit --config configs/quickstart.yaml"
        )
    trajectories = [record.trajectory for record in records]
    true = [record.reflection for record in records if record.reflection is not None]
    shuffled = ShuffledReflector(ScriptedReflector(true), seed=seed).reflect(trajectories, None)
    return sample_turns(trajectories, {"true": true, "shuffled": shuffled}, turns, seed)


def key_path(out: Path) -> Path:
    """Where the key of a sample is kept."""
    return out.with_suffix(".key.json")


def write_sample(out: Path, rows: Sequence[Mapping[str, Any]], key: Mapping[str, str]) -> None:
    """Write both files; neither may be there, for labels may be in them."""
    for path in (out, key_path(out)):
        new_file(path)
    append_lines(out, rows)
    key_path(out).write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")


def new_file(path: Path) -> None:
    """Refuse to write over something.

    Raises:
        HeroError: The file is there.
    """
    if path.exists():
        raise HeroError(f"{path} is there already. Give another name, or remove it first.")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a sample or of a rater, checked.

    Raises:
        HeroError: A line is not such a row.
    """
    rows = []
    for number, row in read_lines(path):
        labels = row.get("labels")
        if not isinstance(row.get("id"), str) or not isinstance(labels, dict) or set(labels) - set(QUESTIONS):
            raise HeroError(f"{path}, line {number}: not a row of hero_pl annotate sample (id, labels of known names).")
        wrong = [name for name, value in labels.items() if value not in (None, True, False)]
        if wrong:
            raise HeroError(f"{path}, line {number}: {wrong[0]} is {labels[wrong[0]]!r}; expected true, false or null.")
        rows.append(row)
    if not rows:
        raise HeroError(f"{path}: holds no row.")
    return rows


def read_key(path: Path) -> dict[str, str]:
    """Arm of each row.

    Raises:
        HeroError: It is not a key file.
    """
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HeroError(f"{path}: cannot be read as a key of hero_pl annotate sample ({error}).") from error
    if not isinstance(key, dict) or not all(isinstance(arm, str) for arm in key.values()):
        raise HeroError(f"{path}: is not a key of hero_pl annotate sample: expected an arm by row id.")
    return key


# -- report ----------------------------------------------------------------------------------------------------------


def tables(report: Report) -> list[list[list[str]]]:
    """Measures by arm and, with several raters, agreement by question; the first row of each is its head.

    What nobody answered is left out.
    """
    arms = sorted((name for name in report if name != "agreement"), reverse=True)  # the true ones first
    measures = list(dict.fromkeys(name for arm in arms for name in report[arm]))
    measures = [name for name in measures if not name.endswith(("/from", "/to"))]
    rows = [[name, *(_interval(report[arm], name) for arm in arms)] for name in measures]
    found = [[["measure", *arms], *(row for row in rows if any(row[1:]))]]
    agreement = report["agreement"]
    columns = ["cohen", "fleiss", "alpha", "tied"]
    if any(not name.endswith("/tied") and not math.isnan(value) for name, value in agreement.items()):
        rows = [[name, *(_cell(agreement.get(f"{name}/{c}"), c) for c in columns)] for name in QUESTIONS]
        found.append([["question", *columns], *(row for row in rows if any(row[1:-1]))])
    return found


def print_report(report: Report, console: Console | None = None) -> None:
    """All tables in the terminal."""
    for head, *rows in tables(report):
        table = Table(*head, box=SIMPLE)
        for row in rows:
            table.add_row(*row)
        (console or Console()).print(table)


def to_markdown(report: Report) -> str:
    """All tables for a document."""
    parts = []
    for head, *rows in tables(report):
        parts += ["\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)), ""]
    return "\n".join(parts)


def report_json(report: Report) -> str:
    """As JSON; what is undefined is null."""
    clean = {
        part: {name: None if math.isnan(value) else value for name, value in values.items()}
        for part, values in report.items()
    }
    return json.dumps(clean, indent=2) + "\n"


def _interval(arm: Mapping[str, float], name: str) -> str:
    """The value and its 95 % interval; "not resolved" where episodes showed no spread that one could rest on."""
    low, high = arm.get(f"{name}/from"), arm.get(f"{name}/to")
    value = _cell(arm.get(name), name)
    if not value or name.endswith("rows"):
        return value
    return f"{value} [not resolved]" if low is None or high is None else f"{value} [{low:.3f}, {high:.3f}]"


def _cell(value: float | None, name: str) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.0f}" if name.endswith(("rows", "tied")) else f"{value:.3f}"
