"""Join the finished cells of grids that were run in parts into one table of results.

    python benchmarks/join.py docs/results/real-shop-200.csv runs/real-shop-a runs/real-shop-b

The folders are those of ``--out`` of ``turn_budget.py``. Rows are in the order of base policy, method, learning rate,
seed and budget. Two results of one run are refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cells import finished, rows_of
from tables import write_rows


def joined(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Rows of all finished cells of the folders, without those of ``--tune``.

    Raises:
        SystemExit: A folder has no finished cell, or a run is in the table twice.
    """
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for folder in folders:
        found = finished(folder / "cells")
        if not found:
            raise SystemExit(f"{folder}: no finished cell in {folder / 'cells'}. Give the --out folder of a grid.")
        for cell, result in found:
            rows = rows_of(cell, result, False)
            run = _place(rows[0])[:-1]
            if run in runs:
                raise SystemExit(
                    f"{folder}: {cell.method} from {cell.base} with seed {cell.seed} and rate {cell.lr:g} is there "
                    "twice, in another folder or with other budgets. Leave out one of them."
                )
            runs[run] = rows
    return sorted((row for rows in runs.values() for row in rows), key=_place)


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
