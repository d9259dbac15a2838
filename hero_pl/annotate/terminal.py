"""Label rows in the terminal, one question at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hero_pl.annotate.files import labeled_rows, read_rows
from hero_pl.annotate.quality import QUESTIONS
from hero_pl.runs.jsonl import append_lines
from hero_pl.runs.viewer.terminal import plain

ANSWERS = {"y": True, "yes": True, "n": False, "no": False, "": None, "-": None}


def ask_all(
    turns: Path,
    out: Path,
    rater: str = "",
    ask: Callable[[str], str] = input,
    say: Callable[[str], None] = print,
) -> int:
    """Ask about every row that is not in ``out`` yet, until the answer ``q`` or the end of the input.

    A row that is only partly answered then is not written.

    Args:
        turns: Rows written by ``hero_pl annotate sample``.
        out: File of the labeled rows; each row is appended when it is complete.
        rater: Name recorded with each row.
        ask: Prints a question and returns the answer.
        say: Prints text.

    Returns:
        Number of rows in ``out`` afterwards.

    Raises:
        HeroError: A file cannot be read or written, or ``out`` holds labels of another rater or of another sample.
    """
    rows = read_rows(turns)
    done = {row["id"] for row in labeled_rows(out, rows, rater)}
    say("Answer y or n; press Enter if you cannot tell; q quits. The same command continues later.")
    for number, row in enumerate(rows, 1):
        if row["id"] in done:
            continue
        say(describe(row, f"{number} of {len(rows)}"))
        labels = _answers(ask, say)
        if labels is None:
            break
        append_lines(out, [{**row, "rater": rater, "labels": labels}])
        done.add(row["id"])
    return len(done)


def describe(row: dict[str, Any], place: str) -> str:
    """The text that a rater sees, with control characters escaped."""
    lines = [f"\n=== row {place}, turn {row['turn']} of {row['turns']}, reward {row['reward']:.2f}", row["task"]]
    for turn in row["history"]:
        lines += [f"  > {turn['action']}", f"  < {turn['reply']}"]
    lines += [f"==> {row['action']}", f"<== {row['reply']}", f"diagnosis ({row['confidence']}): {row['diagnosis']}"]
    if row["next_action_target"] is not None:
        lines.append(f"next_action_target: {row['next_action_target']}")
    return "\n".join(plain(str(line)) for line in lines)


def _answers(ask: Callable[[str], str], say: Callable[[str], None]) -> dict[str, bool | None] | None:
    labels: dict[str, bool | None] = {}
    for name, question in QUESTIONS.items():
        while name not in labels:
            try:
                given = ask(f"{question} [y/n/-/q] ").strip().lower()
            except EOFError:
                given = "q"
            if given == "q":
                return None
            if given in ANSWERS:
                labels[name] = ANSWERS[given]
            else:
                say(f"{plain(given)!r} is not an answer. Type y, n or q, or press Enter.")
    return labels
