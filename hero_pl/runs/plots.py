"""Plot curves from the ``metrics.csv`` files of runs, as PNG or SVG.

The x axis is always the number of training turns used, because methods are compared at equal numbers of turns. Runs of
one method (the same name except for the seed) become one line with a 95 % band. matplotlib is in the extra ``plot``.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hero_pl.errors import ConfigError, HeroError
from hero_pl.runs.folders import must_be_writable, must_exist
from hero_pl.runs.intervals import EQUAL, LEVEL, student_quantile
from hero_pl.runs.settings import OTHER_NAME, decisive, differences, read_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = (".png", ".svg")
"""Endings of the names of pictures; they choose the format."""
TURNS = "train/turns"
"""Assistant turns used for training so far."""


class Panel(NamedTuple):
    """One metric over training turns."""

    title: str
    columns: tuple[str, ...]
    """Candidates; the first one with at least two points in some run is drawn."""
    low: float = -math.inf
    """Lowest possible value; bands and axis end there."""
    high: float = math.inf


PANELS = (
    Panel("success", ("val/success", "test/success", "rollout/success"), 0.0, 1.0),
    Panel("turns per episode", ("rollout/turns_per_episode", "val/turns", "test/turns"), 0.0),
    Panel("loss", ("train/loss",)),
    Panel("divergence from the teacher", ("teacher/divergence",)),
    Panel("effect of the hint", ("teacher/hint_gain", "teacher/hint_sensitivity")),
    Panel("reflection coverage", ("reflection/coverage",), 0.0, 1.0),
    Panel("entropy", ("train/entropy",), 0.0),
    Panel("malformed replies", ("rollout/malformed",), 0.0, 1.0),
)
"""A panel that no run has logged is left out."""
COLUMNS = 4
"""Panels side by side."""
SMOOTHING = 9
"""Largest window of the moving mean for training metrics, which are noisy because each step has few rollouts."""

STYLES = ("-", "--", "-.", ":")
"""Of the lines, so that they differ without color."""

_SEED = re.compile(r"(?:^|[-_.])(?:seed|s)[-_=]?\d+$")
_VERSION = re.compile(r"version_\d+$")


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric of one run."""

    turns: NDArray[np.float64]
    """Training turns used, increasing."""
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Band:
    """One metric of one method."""

    turns: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    """Lower end of the 95 % interval of the mean (Student's t); NaN for a single run and where all runs are equal."""
    high: NDArray[np.float64]
    """Upper end."""
    runs: int


def plot_run(run: Path, out: Path) -> None:
    """Draw one run; see :func:`plot_runs`."""
    plot_runs([run], out)


def plot_runs(runs: Sequence[Path], out: Path) -> list[str]:
    """Draw every method found in the runs into one file; runs of one folder and one ``held_out.method`` are a method.

    Args:
        runs: Run folders, or ``metrics.csv`` files; folders are searched for such files.
        out: PNG or SVG file to write, by its suffix; an existing file is replaced.

    Returns:
        Notes for the reader: settings in which runs of one line differ.

    Raises:
        ConfigError: matplotlib is not installed, or ``out`` has another suffix or cannot be written.
        HeroError: No metrics are found, a file cannot be read, or two runs of one method have the same seed.
    """
    must_be_writable(out, "Give another path.", FIGURES)
    owner: dict[tuple[str, str, int], Path] = {}
    found: dict[tuple[str, str], list[Path]] = {}
    settings: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in find_metrics(runs):
        given = run_settings(path)
        name, method, seed = method_name(path), _own_method(given), run_seed(given)
        if seed is not None and (other := owner.setdefault((name, method, seed), path)) != path:
            raise HeroError(
                f"{other.parent} and {path.parent} are both runs of {name!r} with seed {seed}, which are not two "
                "trials: a band over them would claim too much. Leave one of them out, or train one with another seed, "
                f"or, if it is another method, under {OTHER_NAME}."
            )
        found.setdefault((name, method), []).append(path)
        settings.setdefault((name, method), []).append(decisive(given))
    several = Counter(name for name, _ in found)
    labels = {key: f"{key[0]} ({key[1] or 'no method'})" if several[key[0]] > 1 else key[0] for key in found}
    draw_methods({labels[key]: [read_curves(path) for path in paths] for key, paths in found.items()}, out)
    return [
        f"Averaged runs differ: {labels[key]}: {setting} is {' and '.join(map(repr, values))}."
        for key, ones in settings.items()
        for setting, values in differences(ones).items()
    ]


def draw_methods(
    methods: Mapping[str, Sequence[Mapping[str, Curve]]],
    out: Path,
    panels: Sequence[Panel] = PANELS,
    linear_below: float | None = None,
) -> None:
    """Draw curves that were already read: one line with its band per method.

    Args:
        methods: Method -> the curves of each of its runs, by metric.
        out: PNG or SVG file to write, by its suffix; an existing file is replaced.
        panels: What to draw.
        linear_below: Number of training turns from which the x axis is logarithmic; ``None`` for a linear axis.

    Raises:
        ConfigError: matplotlib is not installed.
        HeroError: ``out`` cannot be written.
    """
    every = [run for runs in methods.values() for run in runs]
    logged = [panel for panel in panels if best_column(panel.columns, every)] or list(panels[:1])
    wide = min(COLUMNS, len(logged))
    high = math.ceil(len(logged) / wide)
    figure = figure_class()(figsize=(4.3 * wide, 3.6 * high + 1.0), layout="constrained")
    for place, panel in enumerate(logged, 1):
        _draw(figure.add_subplot(high, wide, place), panel, methods)
    for axes in figure.axes:
        if linear_below is not None:
            axes.set_xscale("symlog", linthresh=linear_below, linscale=0.4)
            axes.set_xlim(left=0.0)
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        entries |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if entries:
        # about 16 characters of this size per inch; a legend that is wider than the figure would be cut
        fitting = int(figure.get_figwidth() * 16 / (max(map(len, entries)) + 8))
        columns = max(1, min(5, fitting))
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    save_figure(figure, out, 150)


def save_figure(figure: Figure, out: Path, dpi: int) -> None:
    """Write a figure as SVG or PNG, by the suffix of the file.

    Raises:
        HeroError: It cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=dpi, format="svg" if out.suffix.lower() == ".svg" else "png")
    except OSError as error:
        raise HeroError(f"{out}: cannot write the plot ({error.strerror or error}). Give another path.") from error


def find_metrics(runs: Sequence[Path]) -> list[Path]:
    """The ``metrics.csv`` files of the runs, each once, in the order given.

    Raises:
        ConfigError: A folder or file does not exist.
        HeroError: A folder contains no such file.
    """
    files: dict[Path, None] = {}
    for run in runs:
        must_exist(run, "run", "Give a folder that hero_pl fit wrote, or a metrics.csv.")
        paths = [run] if run.is_file() else sorted(run.rglob("metrics.csv"))
        if not paths:
            raise HeroError(
                f"{run} contains no metrics.csv. Give folders that hero_pl fit wrote (runs/NAME), or such files."
            )
        files.update(dict.fromkeys(paths))
    if not files:
        raise HeroError("No runs were given. Give at least one run folder: hero_pl plot runs/NAME")
    return list(files)


def method_name(metrics_path: Path) -> str:
    """Name of the run without version and seed: ``runs/hero-seed3/version_0/metrics.csv`` is a run of ``hero``."""
    for part in reversed(metrics_path.resolve().parent.parts):
        name = _SEED.sub("", part)
        if name and not _VERSION.fullmatch(part):
            return name
    return "run"


def run_seed(settings: Mapping[str, Any]) -> int | None:
    """Seed in the configuration of a run; ``None`` if there is none."""
    try:
        return int(settings["data"]["seed"])
    except (LookupError, TypeError, ValueError):
        return None


def run_settings(metrics_path: Path) -> dict[str, Any]:
    """Configuration of the run; empty if it has none that can be read."""
    try:
        return read_settings(metrics_path.parent)
    except HeroError:
        return {}


def _own_method(settings: Mapping[str, Any]) -> str:
    """``held_out.method`` of a run; empty if it names none."""
    held_out = settings.get("held_out")
    return str(held_out.get("method") or "") if isinstance(held_out, Mapping) else ""


def read_curves(path: Path) -> dict[str, Curve]:
    """Read every metric of a file as a function of training turns.

    Rows are sparse: a row without ``train/turns`` gets the turns used at its step (interpolated), or 0 if it comes
    before the first training row.

    Raises:
        HeroError: The file cannot be read, has no column ``step``, or a cell is not a number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [_numbers(path, number, row) for number, row in enumerate(csv.DictReader(file), start=2)]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise HeroError(
            f"{path}: cannot read the metrics of a run ({error}). Give a metrics.csv that hero_pl fit wrote."
        ) from error
    if rows and not any("step" in row for row in rows):
        raise HeroError(f"{path} has no column 'step'. Give a metrics.csv that hero_pl fit wrote.")
    first = next((i for i, row in enumerate(rows) if TURNS in row), len(rows))
    used = {row["step"]: row[TURNS] for row in rows if TURNS in row and "step" in row}
    steps = sorted(used)
    points: dict[str, dict[float, float]] = {}
    for i, row in enumerate(rows):
        if TURNS in row:
            turns = row[TURNS]
        elif i < first or "step" not in row:
            turns = 0.0
        else:
            turns = float(np.interp(row["step"], steps, [used[step] for step in steps]))
        for name, value in row.items():
            points.setdefault(name, {})[turns] = value  # a step repeated after a resume counts once
    return {
        name: Curve(np.array(sorted(values)), np.array([values[turns] for turns in sorted(values)]))
        for name, values in points.items()
    }


def band(curves: Sequence[Curve]) -> Band:
    """Mean over runs with its 95 % interval by Student's t, over the range of turns that all runs cover (may be empty).

    With one run, and where all runs are equal, the ends are NaN: no band is drawn, instead of one of width 0.

    Args:
        curves: One curve per run, at least one.
    """
    start = max(float(curve.turns[0]) for curve in curves)
    end = min(float(curve.turns[-1]) for curve in curves)
    every = np.unique(np.concatenate([curve.turns for curve in curves]))
    grid = every[(every >= start) & (every <= end)]
    table = np.stack([np.interp(grid, curve.turns, curve.values) for curve in curves])
    mean, runs = table.mean(axis=0), len(curves)
    spread = table.std(axis=0, ddof=1) if runs > 1 else np.zeros_like(mean)
    half = np.where(spread > EQUAL, student_quantile(LEVEL, max(1, runs - 1)) * spread / math.sqrt(runs), np.nan)
    return Band(grid, mean, mean - half, mean + half, runs)


def smooth(curve: Curve) -> Curve:
    """Centered moving mean over a tenth of the points; the window is shorter at both ends, so that no point is lost."""
    half = min(SMOOTHING, len(curve.values) // 10) // 2
    values = [curve.values[max(0, i - half) : i + half + 1].mean() for i in range(len(curve.values))]
    return Curve(curve.turns, np.array(values))


def _draw(axes: Any, panel: Panel, methods: Mapping[str, Sequence[Mapping[str, Curve]]]) -> None:
    """Fill one panel."""
    drawn = set()
    for i, (method, runs) in enumerate(methods.items()):
        name = best_column(panel.columns, runs)
        if name is None:
            continue
        curves = [run[name] for run in runs if name in run]
        if noisy(name):
            curves = [smooth(curve) for curve in curves]
        drawn.add(name)
        style = (f"C{i % 10}", STYLES[i % len(STYLES)])
        _draw_method(axes, method, curves, len(runs), style, (panel.low, panel.high))
    axes.set_title(panel.title, loc="left", fontsize=11)
    axes.set_xlabel("training turns")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if drawn:
        note = f", moving mean of up to {SMOOTHING}" if any(map(noisy, drawn)) else ""
        axes.set_ylabel(" and ".join(sorted(drawn)) + note, fontsize=8)
        if math.isfinite(panel.high):
            axes.set_ylim(panel.low - 0.02, panel.high + 0.02)
        elif math.isfinite(panel.low):
            axes.set_ylim(bottom=panel.low)
    else:
        axes.text(0.5, 0.5, "not logged", ha="center", va="center", transform=axes.transAxes, color="0.5")


def noisy(name: str) -> bool:
    """Whether a metric is of the few episodes of one training step."""
    return name.startswith(("rollout/", "reflection/", "train/", "teacher/divergence"))


def best_column(columns: Sequence[str], runs: Sequence[Mapping[str, Curve]]) -> str | None:
    """The first column with at least two points in some run, else the first with any point."""
    points = {column: max((len(run[column].turns) for run in runs if column in run), default=0) for column in columns}
    return next((column for least in (2, 1) for column in columns if points[column] >= least), None)


def _draw_method(
    axes: Any,
    method: str,
    curves: Sequence[Curve],
    runs: int,
    style: tuple[str, str],
    bounds: tuple[float, float],
) -> None:
    """Draw one line with its band, in a color and a line style; the label gives the number of runs."""
    color, line_style = style
    count = str(runs) if len(curves) == runs else f"{len(curves)} of {runs}"
    label = f"{method} ({count} run{'s' if runs > 1 else ''})"
    line = band(curves)
    if not len(line.turns):  # no common range to average over: draw each run
        for i, curve in enumerate(curves):
            axes.plot(curve.turns, curve.values, color=color, alpha=0.6, label=f"{label}, each" if i == 0 else None)
        return
    marker = "o" if len(line.turns) <= 25 else None
    axes.plot(line.turns, line.mean, line_style, color=color, marker=marker, ms=3.5, label=label)
    if line.runs > 1:
        low, high = np.clip(line.low, *bounds), np.clip(line.high, *bounds)  # no rate above 1 or below 0
        axes.fill_between(line.turns, low, high, color=color, alpha=0.18, linewidth=0)


def _numbers(path: Path, number: int, row: Mapping[str, str | None]) -> dict[str, float]:
    """Parse the non-empty cells of a row."""
    values = {}
    for name, cell in row.items():
        if name is None or not isinstance(cell, str) or not cell.strip():
            continue
        try:
            value = float(cell)
        except ValueError as error:
            raise HeroError(f"{path}, line {number}: {name} is {cell!r}, not a number. Repair or remove it.") from error
        if math.isfinite(value):
            values[name] = value
    return values


def figure_class() -> type[Figure]:
    """Class ``Figure`` of matplotlib, without the global state of pyplot."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            f"Plots need matplotlib, but it cannot be imported ({error}). Install it with: pip install 'hero_pl[plot]'"
        ) from error
    return Figure
