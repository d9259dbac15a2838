"""Format comparisons of runs as tables, for the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hero_pl.runs.compare import FEW_SEEDS, Comparison
from hero_pl.runs.viewer.terminal import plain


def to_table(comparisons: Sequence[Comparison]) -> Table:
    """Table for the terminal, with two or more lines per comparison so that it fits into 80 columns."""
    table = Table(title=f"{comparisons[0].metric}, 95 % interval" if comparisons else None)
    table.box, table.pad_edge, table.collapse_padding = SIMPLE, False, True
    for head in ("stage\nbudget", "method\nagainst"):
        table.add_column(head, overflow="fold")  # wrap a long name instead of cutting it
    for head in ("seeds\ntasks", "mean", "effect", "verdict", "runs\nneeded"):
        table.add_column(head, no_wrap=True)
    for one in comparisons:
        stage, budget, method, baseline, block, seeds, tasks, _, effect, verdict, needed, floor, user = _cells(one)
        cells = (
            f"{stage}\n{budget}",
            f"{method}\nvs {baseline}" + (f"\n{block}" if one.block else "") + (f"\nuser {user}" if one.user else ""),
            f"{seeds}\n{tasks}",
            f"{one.method_mean:.3f}\n{one.baseline_mean:.3f}",
            effect.replace(" [", "\n["),
            verdict if one.floor is None else f"{verdict}\n(nothing: {floor})",
            needed,
        )
        table.add_row(*(Text(plain(cell)) for cell in cells), style="" if one.resolved else "dim")
    return table


def to_markdown(comparisons: Sequence[Comparison]) -> str:
    """Markdown table, followed by the notes."""
    table = markdown(_HEAD, (_cells(one) for one in comparisons))
    return "\n".join([table, *notes(comparisons), ""])


def markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table of any cells; ends with a newline."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, *body)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]]) + "\n"


def notes(comparisons: Sequence[Comparison]) -> list[str]:
    """Notes that a reader of the table needs."""
    lines = ["Runs needed: seeds per method that resolve an effect of this size with 80 % probability."]
    if any(not one.has_interval for one in comparisons):
        lines.append(
            "No interval: with one seed and one task, or with equal differences, there is no spread to compute it "
            "from. Evaluate more seeds and tasks."
        )
    if any(one.tasks == 1 for one in comparisons):
        lines.append("One task: the result does not cover other tasks.")
    if any(one.seeds == 1 and one.has_interval for one in comparisons):
        lines.append("One seed: the interval covers the choice of tasks only, not the variation between training runs.")
    if any(one.seeds > 1 and one.equal_seeds and one.has_interval for one in comparisons):
        lines.append("Equal effects of all seeds: the interval covers the choice of tasks only.")
    if any(1 < one.seeds < FEW_SEEDS for one in comparisons):
        lines.append(
            f"Fewer than {FEW_SEEDS} seeds: the interval assumes that results of runs are normally distributed."
        )
    if any(one.seeds == 2 for one in comparisons):
        lines.append(
            "Two seeds: their spread is hardly known. Without any effect such intervals exclude 0 about twice as often "
            "as the 5 % that they should."
        )
    lines += [
        f"Averaged runs differ: {text}." for text in dict.fromkeys(text for one in comparisons for text in one.mixed)
    ]
    lines += dict.fromkeys(text for one in comparisons for text in one.remarks)
    left_out = len(frozenset().union(*(one.unpaired_of for one in comparisons)))
    if left_out:
        lines.append(f"{left_out} results that only one of the two methods has for this seed and task were left out.")
    broken = sum({key: n for one in comparisons for key, n in one.broken_of.items()}.values())
    if broken:
        lines.append(f"{broken} episodes that ended with an error of the environment or its user were left out.")
    if any(one.floor is not None for one in comparisons):
        lines.append("Doing nothing: the success rate of an agent that ends each of these dialogues at once.")
    if any(one.user for one in comparisons):
        lines.append("Scores with different kinds of users are not comparable; each row has one kind.")
    return lines


def print_comparison(comparisons: Sequence[Comparison], console: Console | None = None) -> None:
    """Print the table and its notes."""
    console = console or Console()
    console.print(to_table(comparisons))
    for note in notes(comparisons):
        console.print(Text(plain(note)))


_HEAD = ["stage", "budget", "method", "baseline", "block", "seeds", "tasks", "means", "effect", "verdict"]
_HEAD += [
    "runs needed",
    "doing nothing",
    "user",
]  # the same columns for every environment, so that tables can be joined


def _cells(one: Comparison) -> list[str]:
    """Cells of one comparison, for both tables."""
    return [
        one.stage,
        str(one.turns_budget),
        one.method,
        one.baseline,
        one.block or "-",
        str(one.seeds),
        str(one.tasks),
        f"{one.method_mean:.3f} vs {one.baseline_mean:.3f}",
        f"{one.effect:+.3f} " + (f"[{one.low:+.3f}, {one.high:+.3f}]" if one.has_interval else "[no interval]"),
        one.verdict,
        "unknown" if one.runs_needed is None else str(one.runs_needed),
        "-" if one.floor is None else f"{one.floor:.3f}",
        one.user or "-",
    ]
