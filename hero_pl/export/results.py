"""Results of the held-out evaluations of one run, from ``eval.jsonl`` and ``summary.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hero_pl.errors import HeroError
from hero_pl.runs.evaluations import EVAL_FILE, Cell, cells_of
from hero_pl.runs.intervals import success_interval
from hero_pl.runs.jsonl import read_lines

SUMMARY_FILE = "summary.json"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of one policy."""

    stage: str
    """Split of the tasks: ``test`` or ``validate``."""
    budget: int
    """Training turns after which the evaluation was planned."""
    turns_used: int | None
    """Training turns that the policy had used; ``None`` if the run ended before it wrote its summary."""
    episodes: int
    """Episodes that are counted."""
    tasks: int
    """Different tasks among them."""
    broken: int
    """Episodes that ended with an error of the environment, its user or the sampler; they are not counted."""
    success: float
    """Success rate; like the other means, NaN without episodes."""
    low: float
    """Lower end of the 95 % Wilson interval of ``success``, over the tasks of this run."""
    high: float
    reward: float
    """Mean reward."""
    turns: float
    """Mean turns per episode."""
    user: str
    """Kind of user simulator; empty without one."""
    floor: float | None
    """Success rate of doing nothing on these tasks; ``None`` if the environment does not report it."""


def evaluations(run: Path) -> list[Evaluation]:
    """The evaluations of a run in the order of the file; empty if there are none.

    Raises:
        HeroError: A file of the run cannot be read.
    """
    path = run / EVAL_FILE
    if not path.exists():
        return []
    used = _turns_used(run / SUMMARY_FILE)
    rows = []
    for number, row in read_lines(path):
        try:
            row |= {"stage": str(row["stage"]), "turns_budget": int(row["turns_budget"])}
            str(row["task_id"]), float(row["reward"]), int(row["turns"]), bool(row["success"])
        except (KeyError, TypeError, ValueError) as error:
            raise HeroError(f"{path}, line {number}: {error!r}. Every line describes one evaluated episode.") from error
        rows.append(row)
    groups: dict[Cell, list[Mapping[str, Any]]] = {}
    for row, cell in zip(rows, cells_of(rows), strict=True):
        groups.setdefault(cell, []).append(row)
    return [_evaluation(*cell, used.get(cell[1]), of_cell) for cell, of_cell in groups.items()]


def of_these_weights(results: Sequence[Evaluation], turns: int) -> Evaluation | None:
    """The evaluation of the weights that had used so many training turns; ``None`` if none has an episode."""
    return next((one for one in reversed(results) if one.turns_used == turns and one.episodes), None)


def _evaluation(stage: str, budget: int, user: str, used: int | None, rows: Sequence[Mapping[str, Any]]) -> Evaluation:
    judged = [row for row in rows if row.get("evaluable", True)]
    count = len(judged)
    low, high = success_interval((row["task_id"], bool(row["success"])) for row in judged)
    floors = [bool(row["do_nothing_succeeds"]) for row in judged if "do_nothing_succeeds" in row]

    def mean(name: str) -> float:
        return sum(float(row[name]) for row in judged) / count if count else math.nan

    return Evaluation(
        stage=stage,
        budget=budget,
        turns_used=used,
        episodes=count,
        tasks=len({row["task_id"] for row in judged}),
        broken=len(rows) - count,
        success=mean("success"),
        low=low,
        high=high,
        reward=mean("reward"),
        turns=mean("turns"),
        user=user,
        floor=sum(floors) / len(floors) if floors else None,
    )


def _turns_used(summary: Path) -> dict[int, int]:
    """Budget -> training turns used, from the summary; empty without one."""
    if not summary.exists():
        return {}
    try:
        curve = json.loads(summary.read_text(encoding="utf-8"))["curve"]
        return {int(budget): int(result["turns_used"]) for budget, result in curve.items()}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise HeroError(f"{summary} is not the summary of a run ({error!r}). Remove it, or resume the run.") from error
