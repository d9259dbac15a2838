"""Difference between two methods of a committed table, paired by seed, with its 95 % interval.

    python benchmarks/paired.py docs/results/real-shop-800.csv hero_sharp=1.6e-3 reinforce=4e-4 --budget 800

``hero_pl compare`` needs the folders of the runs and also counts the choice of tasks; this reads a table of
``turn_budget.py`` or ``join.py``, and its interval is Student's t over the seeds that both methods have.
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
    args = parser.parse_args()
    first, second = (by_seed(args.file, arm, args.budget, args.column) for arm in args.arms)
    changes = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    print(f"{' - '.join(args.arms)}, {args.column} after {args.budget} turns: {told(changes)}")


def by_seed(file: Path, arm: str, budget: int, column: str) -> dict[str, float]:
    """Value of each seed of a method at a rate."""
    method, _, rate = arm.partition("=")
    rows = [
        row for row in of(read_rows(file), method=method, budget=budget) if math.isclose(float(row["lr"]), float(rate))
    ]
    if not rows:
        raise SystemExit(f"{file}: no run of {arm} with {budget} turns.")
    return {row["seed"]: float(row[column]) for row in rows}


def told(changes: list[float]) -> str:
    """Mean, interval and number of the differences."""
    if not changes:
        raise SystemExit("The two methods have no seed in common.")
    low, high = mean_interval(changes)
    return f"{statistics.fmean(changes):.3f} [{low:.3f}, {high:.3f}], {len(changes)} seeds"


if __name__ == "__main__":
    main()
