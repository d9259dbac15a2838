"""Labels by rule: what is true of a turn of the pocket shop, and what a diagnosis in its language says.

The rules see what a rater sees: request, pages, action, answer. They say nothing about ``leaks_future``, which the
language of verdicts cannot express.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from hero_pl.errors import HeroError
from hero_pl.pocket.rules import Kind, Request, call, judge


def label_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies of the rows with labels.

    Raises:
        HeroError: A row is not of the pocket shop.
    """
    return [{**row, "rater": "rules", "labels": {**row["labels"], **labels(row)}} for row in rows]


def labels(row: Mapping[str, Any]) -> dict[str, bool | None]:
    """Answers for one row of a sample."""
    request = Request.read(row["task"])
    if request is None:
        raise HeroError(
            f"Task {row['task_id']!r}: there are rules for the pocket shop (hero_pl/WebShopPocket-v0) only. "
            "Label other environments with hero_pl annotate label, form or judge."
        )
    page = row["task"]
    for turn in row["history"]:
        page = page if turn["malformed"] else turn["reply"]
    truth = judge(request, page, row["action"], row["reply"])
    said, _, named = row["diagnosis"].partition(": ")
    known = said in get_args(Kind)
    target = row["next_action_target"]
    valid = None if target is None else target == call(truth.slot, truth.right)
    was_error = truth.kind != "right"
    return {
        "turn_was_error": was_error,
        "says_error": said != "right" if known else None,
        "error_type": said == truth.kind if known else None,
        "grounded": said == truth.kind and named == truth.value if known else None,
        "actionable": bool(valid) if was_error else None,
        "target_valid": valid,
    }
