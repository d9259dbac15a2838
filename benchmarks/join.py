"""Join the finished cells of grids that were run in parts into one table of results.

    python benchmarks/join.py docs/results/real-shop-200.csv runs/real-shop-a runs/real-shop-b

The folders are those of ``--out`` of ``turn_budget.py``. Rows are in the order of base policy, method, learning rate,
seed and budget. Refused are two results of one run, and runs of one method, base policy and rate that differ in a
setting or in the weights that they began with: a row of a table is a mean over seeds. Runs that crashed or have not
ended are left out, and printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from cells import finished, left_out, rows_of
from methods import BASE
from tables import write_rows

from hero_pl.runs.settings import decisive, differences, read_settings


def joined(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Rows of all finished cells of the folders, without those of ``--tune``.

    Raises:
        SystemExit: A folder has no finished cell, a run is in the table twice, or runs of one row differ in a setting.
    """
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    first: dict[tuple[Any, ...], tuple[Path, dict[str, Any]]] = {}
    for folder in folders:
        found = finished(folder / "cells")
        if not found:
            raise SystemExit(f"{folder}: no finished cell in {folder / 'cells'}. Give the --out folder of a grid.")
        for cell, result, place in found:
            rows = rows_of(cell, result, False)
            run = _place(rows[0])[:-1]
            if run in runs:
                raise SystemExit(
                    f"{folder}: {cell.method} from {cell.base} with seed {cell.seed} and rate {cell.lr:g} is there "
                    "twice, in another folder or with other budgets. Leave out one of them."
                )
            runs[run] = rows
            mine = resolved(place)
            other, same = first.setdefault(run[:-1], (place, mine))
            if differ := differences([same, mine]):
                values = "; ".join(f"{key} is {' and '.join(map(repr, values))}" for key, values in differ.items())
                raise SystemExit(
                    f"{other} and {place} would be in one row, but {values}. Join them into different files."
                )
    return sorted((row for rows in runs.values() for row in rows), key=_place)


def resolved(place: Path) -> dict[str, Any]:
    """Settings of the run of a cell that decide its results, and the digests of the weights it began with."""
    cell = json.loads((place / "cell.json").read_text(encoding="utf-8"))
    settings = read_settings(place / "version_0")
    if not settings:  # the untrained policy has no run
        settings = yaml.safe_load((place / "overlay.yaml").read_text(encoding="utf-8"))
    if cell["method"] == BASE:  # it is only evaluated
        settings = {key: value for key, value in settings.items() if key in ("data", "held_out")}
    weights = {f"weights.{name}": digest for name, digest in cell["weights"].items() if name.endswith(".safetensors")}
    return decisive(settings) | weights


def _place(row: dict[str, Any]) -> tuple[str, str, float, int, int]:
    return row["base"], row["method"], float(row["lr"] or 0), row["seed"], row["budget"]


def main(words: Iterable[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="csv file to write")
    parser.add_argument("folders", nargs="+", type=Path, help="--out folders of turn_budget.py")
    args = parser.parse_args(None if words is None else list(words))
    rows = joined(args.folders)
    for folder in args.folders:
        for place, reason in left_out(folder / "cells"):
            print(f"{place}: left out, {reason}")
    write_rows(args.file, rows)
    print(f"{args.file}: {len(rows)} rows of {len({_place(row)[:-1] for row in rows})} runs")


if __name__ == "__main__":
    main()
