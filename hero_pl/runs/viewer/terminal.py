"""Print the records of a run in the terminal."""

from __future__ import annotations

import math
import re
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hero_pl.errors import HeroError
from hero_pl.runs.records import Record, read_records, succeeded
from hero_pl.runs.viewer.summary import StageSummary, Summaries
from hero_pl.types import Turn

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def print_terminal(
    records_path: Path, limit: int = 20, console: Console | None = None, stage: str | None = None
) -> int:
    """Print the first ``limit`` episodes, then a summary; return the number of printed episodes.

    The summary has a row for training, and rows for the first and the last step of each evaluation. It
    covers the whole file; a line tells the user if the file has more episodes than were printed.

    Args:
        records_path: A ``trajectories.jsonl``.
        limit: Maximum number of episodes to print.
        console: Console to print to; default: standard output.
        stage: Print and summarize only the episodes of this stage.

    Raises:
        HeroError: ``limit`` is not positive, the file has no episode of the stage, or the records cannot be read.
    """
    if limit < 1:
        raise HeroError(f"limit is {limit}; expected the number of episodes to print, at least 1.")
    console = console or Console()
    summaries = Summaries()
    printed = more = 0
    for record in read_records(records_path):
        summaries.add(record)
        if stage not in (None, record.stage):
            continue
        if printed == limit:
            more += 1
            continue
        console.print(_episode(record))
        printed += 1
    if stage is not None and stage not in summaries.stages:
        known = plain(", ".join(summaries.stages)) or "none"
        raise HeroError(f"{records_path} has no episode of stage {stage!r}. Its stages are: {known}.")
    if more:
        console.print(Text(f"The first {printed} of {printed + more} episodes; increase the limit to see more."))
    console.print(_summary(summaries.shown(stage)))
    return printed


def plain(text: str) -> str:
    """Escape control characters, which could control the terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _episode(record: Record) -> Panel:
    """Format one episode as a panel."""
    trajectory, reflection = record.trajectory, record.reflection
    good = succeeded(trajectory)
    body = Text()
    body.append(plain(trajectory.first_observation.strip()) + "\n")
    largest = max((_mean(values) for values in record.token_loss or () if values), default=0.0)
    for i, turn in enumerate(trajectory.turns):
        values = record.token_loss[i] if record.token_loss else None
        _append_turn(body, turn, _mean(values) if values else None, largest)
        diagnosis = reflection.diagnoses[i] if reflection else None
        if diagnosis is not None:
            body.append(plain(f"    diagnosis ({diagnosis.confidence}) "), style="yellow")
            body.append(plain(diagnosis.text) + "\n")
            if diagnosis.next_action_target is not None:
                body.append("    target ", style="yellow")
                body.append(plain(str(dict(diagnosis.next_action_target))) + "\n")
        hint = record.hints[i] if record.hints else None
        if hint is not None:
            position = plain(hint.position or "position of the template")
            body.append(f"    hint of the teacher ({position}) ", style="magenta")
            body.append(plain(hint.text.strip() or "empty").replace("\n", "\n    ") + "\n", style="dim")
        if turn.observation:
            body.append(f"    {plain(turn.role)} ", style="cyan")
            body.append(plain(turn.observation.strip()).replace("\n", "\n    ") + "\n", style="dim")
    title = Text.assemble(
        ("succeeded " if good else "failed ", "green" if good else "red"),
        plain(trajectory.task_id),
        plain(f" · {record.stage}, step {record.step}"),
    )
    status = "" if reflection is None else f" · reflection {plain(reflection.status)}"
    end = Text(
        f"reward {trajectory.reward:.3g} · {len(trajectory.turns)} turns · {trajectory.stop_reason.value}{status}"
    )
    body.rstrip()
    return Panel(body, title=title, subtitle=end, title_align="left", border_style="green" if good else "red")


def _append_turn(body: Text, turn: Turn, loss: float | None, largest: float) -> None:
    """Append the reply of one turn; a larger loss gives a redder background."""
    body.append(plain(f"\n{turn.number:>3} "), style="bold")
    share = 0.0 if loss is None or largest <= 0 else loss / largest
    style = f"on rgb({int(60 + 120 * share)},{int(60 - 20 * share)},40)" if share > 0.05 else ""
    body.append(plain(turn.text.strip() or turn.action).replace("\n", "\n    "), style=style)
    if loss is not None:
        body.append(f"  loss {loss:.3g}", style="dim")
    if turn.malformed is not None:
        body.append(f"  malformed: {plain(turn.malformed)}", style="red")
    body.append("\n")


def _mean(values: tuple[float, ...] | None) -> float:
    scored = [value for value in values or () if not math.isnan(value)]
    return sum(scored) / len(scored) if scored else 0.0


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _summary(stages: list[StageSummary]) -> Table:
    table = Table("stage", "logged\nepisodes", "success", "floor", "reward", "turns each", "diagnosed", "malformed")
    for one in stages:
        users = ", ".join(sorted(one.users))
        last = f"\nlast of {one.last_of} steps" if one.last_of else ""
        cells = (
            plain(one.name) + last + (f"\n{plain(users)}" if users else ""),
            f"{one.episodes}" + (f"\n{one.broken} broken" if one.broken else ""),
            _figure(one.success, ".0%"),
            _figure(one.floor, ".0%"),
            _figure(one.mean_reward, ".3f"),
            _figure(one.turns_per_episode, ".1f"),
            _figure(one.coverage, ".0%"),
            _figure(one.malformed, ".0%"),
        )
        table.add_row(*map(Text, cells))  # a plain string is read as markup
    return table
