"""Difference between two methods of a committed table, paired by start and seed, with its 95 % interval.

    python benchmarks/paired.py docs/results/real-shop-800.csv hero_sharp=1.6e-3 reinforce=4e-4 --budget 800

``hero_pl compare`` needs the folders of the runs and also counts the choice of tasks; this reads a table of
``turn_budget.py`` or ``join.py``, and its interval is Student's t over the runs (base policy and seed) that both
methods have.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

from tables import of, read_rows

from hero_pl.runs.intervals import mean_interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("arms", nargs=2, metavar="METHOD=RATE", help="the first minus the second")
    parser.add_argument("--budget", type=int, required=True)
    parser.add_argument("--column", default="success")
    parser.add_argument("--base", help="only runs from this start; default: all starts")
    args = parser.parse_args()
    first, second = (by_run(args.file, arm, args.budget, args.column, args.base) for arm in args.arms)
    changes = [first[run] - second[run] for run in sorted(first.keys() & second.keys())]
    print(f"{' - '.join(args.arms)}, {args.column} after {args.budget} turns: {told(changes)}")
    if alone := sorted(first.keys() ^ second.keys()):
        print("Left out, since only one method has it: " + ", ".join(f"{base} seed {seed}" for base, seed in alone))


def by_run(file: Path, arm: str, budget: int, column: str, base: str | None = None) -> dict[tuple[str, str], float]:
    """Value of each run, named by base policy and seed, of a method at a rate; runs without a value are left out."""
    method, _, rate = arm.partition("=")
    rows = [
        row
        for row in of(read_rows(file), method=method, budget=budget)
        if math.isclose(float(row["lr"]), float(rate)) and base in (None, row["base"])
    ]
    if not rows:
        raise SystemExit(f"{file}: no run of {arm} with {budget} turns.")
    return {(row["base"], row["seed"]): float(row[column]) for row in rows if row[column]}


def told(changes: list[float]) -> str:
    """Mean, interval and number of the differences."""
    if not changes:
        raise SystemExit("The two methods have no run in common: base policy and seed.")
    low, high = mean_interval(changes)
    return f"{statistics.fmean(changes):.3f} [{low:.3f}, {high:.3f}], {len(changes)} runs"


if __name__ == "__main__":
    main()
