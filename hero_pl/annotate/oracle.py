"""Label rows by rule, for the pocket environments.

The rules use the same input as a rater: task, actions, replies and diagnosis. They compute whether the turn was an
error and compare this with the verdict in the diagnosis. ``leaks_future`` stays open: the short verdicts of the pocket
environments cannot contain such information.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hero_pl.errors import HeroError
from hero_pl.pocket.situation import Situation, open_situation
from hero_pl.reflection.target import canonical_action


def label_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return copies of the rows with labels.

    Raises:
        HeroError: There are no rules for the environment of a row.
    """
    return [{**row, "rater": "rules", "labels": {**row["labels"], **labels(row)}} for row in rows]


def labels(row: Mapping[str, Any]) -> dict[str, bool | None]:
    """Labels of one row of a sample."""
    situation = situation_before(row)
    truth, right = situation.judge(row["sent"], row["action"], row["reply"])
    diagnosis, target = row["diagnosis"], row["next_action_target"]
    kind, verdict = truth.partition(": ")[0], diagnosis.partition(": ")[0]
    known = verdict in situation.kinds
    valid = None if target is None else situation.judge(canonical_action(target), "", "")[1] is None
    return {
        "turn_was_error": right is not None,
        "says_error": verdict != "right" if known else None,
        "error_type": verdict == kind if known else None,
        "grounded": diagnosis == truth if known else None,
        "actionable": bool(valid) if right is not None else None,
        "target_valid": valid,
    }


def situation_before(row: Mapping[str, Any]) -> Situation:
    """State of the rules before the turn of a row.

    Raises:
        HeroError: There are no rules for its environment.
    """
    situation = open_situation(row["task"])
    if situation is None:
        raise HeroError(
            f"Task {row['task_id']!r}: rules exist only for the pocket shop (hero_pl/WebShopPocket-v0) and for "
            "pocket retail tasks with one goal (configs/pocket_retail.yaml). Label other environments with "
            "hero_pl annotate label, form or judge."
        )
    for turn in row["history"]:
        situation = situation.after(turn["sent"], turn["reply"])
    return situation
