"""Read and write the files of an annotation: rows for the raters, the hidden key, labeled rows, the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hero_pl.annotate.quality import QUESTIONS, sample_turns
from hero_pl.errors import HeroError
from hero_pl.reflection.controls import ShuffledReflector
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.runs.folders import must_be_writable, one_run
from hero_pl.runs.jsonl import append_lines, read_lines
from hero_pl.runs.records import read_records
from hero_pl.runs.tables import markdown
from hero_pl.runs.viewer.terminal import plain

Report = Mapping[str, Mapping[str, float]]


def draw(run: Path, turns: int, seed: int) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Draw turns from the reflected episodes of a run: two rows per turn, with its true and with a shuffled diagnosis.

    Returns:
        The rows, and the key: the arm (``true`` or ``shuffled``) of each row id.

    Raises:
        HeroError: The folder holds no run or more than one, or the run has no diagnoses.
    """
    path = one_run(run)
    records = [record for record in read_records(path) if record.reflection is not None]
    if not any(any(record.reflection.diagnoses) for record in records if record.reflection):
        raise HeroError(
            f"{path}: no episode has a diagnosis. Train with trajectories.every_n_steps above 0 and an objective "
            "with a reflector, for example: hero_pl fit --config configs/quickstart.yaml"
        )
    trajectories = [record.trajectory for record in records]
    true = [record.reflection for record in records if record.reflection is not None]
    shuffled = ShuffledReflector(ScriptedReflector(true), seed=seed).reflect(trajectories, None)
    return sample_turns(trajectories, {"true": true, "shuffled": shuffled}, turns, seed)


def key_path(out: Path) -> Path:
    """Path of the key file that belongs to a sample."""
    return out.with_suffix(".key.json")


def write_sample(out: Path, rows: Sequence[Mapping[str, Any]], key: Mapping[str, str]) -> None:
    """Write the rows and the key. Neither file may exist: it could hold labels."""
    for path in (out, key_path(out)):
        new_file(path)
    append_lines(out, rows)
    key_path(out).write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")


def new_file(path: Path) -> None:
    """Check, before the work, that a file does not exist yet and can be written, so that nothing is overwritten.

    Raises:
        HeroError: The file exists, or cannot be written.
    """
    if path.exists():
        raise HeroError(f"{path} exists already. Give another name, or remove it first.")
    must_be_writable(path, "Give another name.")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read and check the rows of a sample, or the labeled rows of one rater.

    Raises:
        HeroError: The file has no row, or a line is not a valid row.
    """
    rows = []
    for number, row in read_lines(path):
        labels = row.get("labels")
        if not isinstance(row.get("id"), str) or not isinstance(labels, dict) or set(labels) - set(QUESTIONS):
            raise HeroError(
                f"{path}, line {number}: not a row written by hero_pl annotate sample (expected an id and labels of "
                f"the questions {', '.join(QUESTIONS)})."
            )
        wrong = [name for name, value in labels.items() if value not in (None, True, False)]
        if wrong:
            raise HeroError(f"{path}, line {number}: {wrong[0]} is {labels[wrong[0]]!r}; expected true, false or null.")
        rows.append(row)
    if not rows:
        raise HeroError(f"{path} has no rows. Give a file that hero_pl annotate sample wrote.")
    return rows


def labeled_rows(out: Path, rows: Sequence[Mapping[str, Any]], rater: str) -> list[dict[str, Any]]:
    """Read the rows that a rater has labeled before, so that the rater goes on with the others.

    Args:
        out: File of the labeled rows; it need not exist yet.
        rows: Rows to label.
        rater: Name of the rater.

    Raises:
        HeroError: The file cannot be written, or holds rows of another rater or of another sample.
    """
    must_be_writable(out, "Give another name with --out.")
    done = read_rows(out) if out.exists() and out.stat().st_size else []
    known = {row["id"] for row in rows}
    for row in done:
        if (other := row.get("rater", "")) != rater:
            raise HeroError(
                f"{out} holds the labels of the rater {other!r}, but this is {rater!r}. Give each rater a file with "
                "--out."
            )
        if row["id"] not in known:
            raise HeroError(
                f"{out} holds row {row['id']!r}, which is not in the file to label. Give each sample a file of labels "
                "with --out."
            )
    return done


def read_key(path: Path) -> dict[str, str]:
    """Read the arm of each row id.

    Raises:
        HeroError: The file is not a key file.
    """
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HeroError(f"{path}: not a key file of hero_pl annotate sample ({error}).") from error
    if not isinstance(key, dict) or not all(isinstance(arm, str) for arm in key.values()):
        raise HeroError(f"{path}: not a key file of hero_pl annotate sample: expected the arm of each row id.")
    return key


# -- report ----------------------------------------------------------------------------------------------------------


def tables(report: Report) -> list[list[list[str]]]:
    """Tables of the measures per arm and, with several raters, of their agreement per question.

    The first row of each table is its header. Measures and questions without an answer are left out.
    """
    arms = sorted((name for name in report if name != "agreement"), reverse=True)  # "true" before "shuffled"
    measures = list(dict.fromkeys(name for arm in arms for name in report[arm]))
    measures = [name for name in measures if not name.endswith(("/from", "/to"))]
    rows = [[name, *(_interval(report[arm], name) for arm in arms)] for name in measures]
    result = [[["measure", *arms], *(row for row in rows if any(row[1:]))]]
    agreement = report["agreement"]
    columns = ["cohen", "fleiss", "alpha", "tied"]
    if any(not name.endswith("/tied") and not math.isnan(value) for name, value in agreement.items()):
        rows = [[name, *(_cell(agreement.get(f"{name}/{c}"), c) for c in columns)] for name in QUESTIONS]
        result.append([["question", *columns], *(row for row in rows if any(row[1:-1]))])
    return result


def print_report(report: Report, console: Console | None = None) -> None:
    """Print all tables in the terminal."""
    for head, *rows in tables(report):
        table = Table(box=SIMPLE)
        for name in head:  # as Text, because a plain string is read as markup
            table.add_column(Text(plain(name)))
        for row in rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        (console or Console()).print(table)


def to_markdown(report: Report) -> str:
    """Format all tables as Markdown."""
    return "\n".join(markdown(head, rows) for head, *rows in tables(report))


def report_json(report: Report) -> str:
    """Format the report as JSON; undefined values are null."""
    clean = {
        part: {name: None if math.isnan(value) else value for name, value in values.items()}
        for part, values in report.items()
    }
    return json.dumps(clean, indent=2) + "\n"


def _interval(arm: Mapping[str, float], name: str) -> str:
    """The value with its 95 % interval, or "not resolved" where the episodes show no spread."""
    low, high = arm.get(f"{name}/from"), arm.get(f"{name}/to")
    value = _cell(arm.get(name), name)
    if not value or name.endswith("rows"):
        return value
    return f"{value} [not resolved]" if low is None or high is None else f"{value} [{low:.3f}, {high:.3f}]"


def _cell(value: float | None, name: str) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.0f}" if name.endswith(("rows", "tied")) else f"{value:.3f}"
