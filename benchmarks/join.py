"""Join the finished cells of grids that were run in parts into one table of results.

    python benchmarks/join.py docs/results/real-shop-200.csv runs/real-shop-a runs/real-shop-b

The folders are those of ``--out`` of ``turn_budget.py``. Rows are in the order of base policy, method, learning rate,
seed and budget. Refused are two results of one run, and runs of one method, base policy and rate that differ in a
setting or in the weights that they began with: a row of a table is a mean over seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from cells import finished, rows_of
from tables import write_rows

OWN = ("seed_everything", "data.seed", "trainer.logger", "turn_budget.max_turns", "held_out.at_turns")
"""Settings in which runs of one row may differ."""


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
            # a key that only one of them has is an option that the other's code did not know yet
            if differ := [key for key in same if key in mine and mine[key] != same[key]]:
                raise SystemExit(
                    f"{other} and {place} would be in one row, but differ in {', '.join(differ)}: "
                    f"{same[differ[0]]!r} and {mine[differ[0]]!r}. Join them into different files."
                )
    return sorted((row for rows in runs.values() for row in rows), key=_place)


def resolved(place: Path) -> dict[str, Any]:
    """Dotted settings of the run of a cell, as the run resolved them, and the digests of the weights it began with."""
    cell = json.loads((place / "cell.json").read_text(encoding="utf-8"))
    config = place / "version_0" / "config.yaml"
    file = config if config.is_file() else place / "overlay.yaml"  # the untrained policy has no run
    settings = dict(_flat(yaml.safe_load(file.read_text(encoding="utf-8"))))
    weights = {f"weights.{name}": digest for name, digest in cell["weights"].items() if name.endswith(".safetensors")}
    return {key: value for key, value in settings.items() if not key.startswith(OWN)} | weights


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _place(row: dict[str, Any]) -> tuple[str, str, float, int, int]:
    return row["base"], row["method"], float(row["lr"] or 0), row["seed"], row["budget"]


def main(words: Iterable[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="csv file to write")
    parser.add_argument("folders", nargs="+", type=Path, help="--out folders of turn_budget.py")
    args = parser.parse_args(None if words is None else list(words))
    rows = joined(args.folders)
    write_rows(args.file, rows)
    print(f"{args.file}: {len(rows)} rows of {len({_place(row)[:-1] for row in rows})} runs")


if __name__ == "__main__":
    main()
