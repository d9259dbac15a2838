"""Curves over training turns for the head of the page, from the ``metrics.csv`` beside the records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hero_pl.runs.plots import PANELS, Curve, best_column, noisy, read_curves, smooth
from hero_pl.runs.viewer.episodes import short

POINTS = 200
"""Points per line at most."""


def curves(records: Sequence[Path]) -> list[dict[str, Any]]:
    """Title, column, bounds and one line per run of every panel that at least one run has logged twice.

    Args:
        records: The records of each run; a run without ``metrics.csv`` has no lines.

    Raises:
        HeroError: A ``metrics.csv`` cannot be read.
    """
    metrics = [path.parent / "metrics.csv" for path in records]
    runs = [read_curves(path) if path.is_file() else {} for path in metrics]
    panels = []
    for panel in PANELS:
        column = best_column(panel.columns, runs)
        if column is None:
            continue
        lines = [_line(number, run[column], noisy(column)) for number, run in enumerate(runs) if column in run]
        if any(len(line["x"]) > 1 for line in lines):
            bounds = {"low": short(panel.low), "high": short(panel.high)}
            panels.append({"title": panel.title, "column": column, **bounds, "lines": lines})
    return panels


def _line(run: int, curve: Curve, smoothed: bool) -> dict[str, Any]:
    line = smooth(curve) if smoothed else curve
    last = len(line.turns) - 1
    places = sorted({round(i * last / (POINTS - 1)) for i in range(POINTS)}) if last >= POINTS else range(last + 1)
    return {
        "run": run,
        "x": [short(float(line.turns[i])) for i in places],
        "y": [short(float(line.values[i])) for i in places],
    }
