"""Data of one episode for the page: its row in the list, its texts and its values per token."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hero_pl.errors import HeroError
from hero_pl.runs.records import Record, evaluable, succeeded
from hero_pl.runs.viewer.chunks import Chunks
from hero_pl.types import FinishReason, Reflection, Turn

Decode: TypeAlias = Callable[[Sequence[int]], list[str]]
"""Function from the ids of one action to the text of each id."""
_Values: TypeAlias = "tuple[float, ...] | None"


@dataclass(slots=True)
class Scales:
    """Losses of a run, counted by their rounded value, for the loss that gets the full color."""

    tokens: Counter[str] = field(default_factory=Counter)
    turns: Counter[str] = field(default_factory=Counter)


def scale(losses: Counter[str]) -> float | None:
    """Loss with the full color: the 95th percentile, so that a single outlier does not make all others pale."""
    positive = sorted((float(loss), count) for loss, count in losses.items() if 0.0 < float(loss) < math.inf)
    place = int(0.95 * (sum(count for _, count in positive) - 1))
    for loss, count in positive:
        place -= count
        if place < 0:
            return loss
    return None


def add_episode(record: Record, run: int, decode: Decode | None, scales: Scales, chunks: Chunks) -> list[Any]:
    """Add the texts and the values per token to the chunks and the losses to the scales; return the row of the list.

    The row has: number of the run, task, stage, step, reward, success, stop reason, number of turns, issues, mean loss
    of the turns, seed, whether there is a diagnosis.

    Raises:
        HeroError: ``decode`` does not return one text per id.
    """
    trajectory, reflection = record.trajectory, record.reflection
    missing = (None,) * len(trajectory.turns)
    diagnoses = reflection.diagnoses if reflection else missing
    columns = [record.token_loss or missing, record.token_student or missing, record.token_teacher or missing]
    turns, tokens = [], []
    for turn, diagnosis, hint, *values in zip(
        trajectory.turns, diagnoses, record.hints or missing, *columns, strict=True
    ):
        entry = _turn(turn, [_mean(column) for column in values])
        if diagnosis is not None:
            target = diagnosis.next_action_target
            entry["diagnosis"] = {
                "text": diagnosis.text,
                "confidence": diagnosis.confidence,
                "target": None if target is None else json.dumps(target, ensure_ascii=False),
            }
        if hint is not None:
            entry["hint"] = {"text": hint.text, "position": hint.position or "position of the chat template"}
        turns.append(entry)
        losses = [] if values[0] is None else [f"{loss:.4g}" for loss in values[0]]
        scales.tokens.update(losses)
        if entry["mean"][0] is not None:
            scales.turns[str(entry["mean"][0])] += 1
        if decode is not None:
            tokens.append(_tokens(turn, decode, chunks, losses, values[1], values[2]))
    tools = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in trajectory.tools)
    means = [turn["mean"][0] for turn in turns if turn["mean"][0] is not None]
    texts = {
        "env": trajectory.env_id,
        "group": trajectory.group,
        "version": trajectory.policy_version,
        "error": str(trajectory.info.get("error", "")),
        "system": chunks.share(trajectory.system_prompt),
        "tools": chunks.share(tools),
        "first": trajectory.first_observation,
        "reflection": None if reflection is None else _reflection(reflection),
        "turns": turns,
    }
    chunks.add(texts, f"[{','.join(tokens)}]" if decode is not None else "null")
    return [
        run,
        trajectory.task_id,
        record.stage,
        record.step,
        short(trajectory.reward),
        succeeded(trajectory),
        trajectory.stop_reason.value,
        len(turns),
        _issues(record),
        short(sum(means) / len(means)) if means else None,
        trajectory.seed,
        any("diagnosis" in turn for turn in turns),
    ]


def _issues(record: Record) -> list[str]:
    """What went wrong in an episode, for the filter."""
    turns = record.trajectory.turns
    found = {code for code, _ in record.reflection.issues} if record.reflection else set()
    if record.reflection is not None and record.reflection.diagnoses and record.reflection.status == "rejected":
        found.add("reflection rejected")
    if any(turn.malformed is not None for turn in turns):
        found.add("malformed reply")
    if any(turn.finish_reason is FinishReason.LENGTH for turn in turns):
        found.add("cut at the token limit")
    if not evaluable(record.trajectory):
        found.add("broken episode")
    return sorted(found)


def _reflection(reflection: Reflection) -> dict[str, Any]:
    return {
        "status": reflection.status,
        "issues": [f"{code} (turn {turn})" if turn else code for code, turn in reflection.issues],
        "raw": reflection.raw if reflection.status != "ok" else "",
    }


def _turn(turn: Turn, means: list[float | None]) -> dict[str, Any]:
    return {
        "text": turn.text,
        "action": turn.action,
        "observation": turn.observation,
        "role": turn.role,
        "finish": turn.finish_reason.value,
        "malformed": turn.malformed,
        "ids": len(turn.action_ids),
        "mean": means,
    }


def _tokens(turn: Turn, decode: Decode, chunks: Chunks, losses: list[str], student: _Values, teacher: _Values) -> str:
    """JSON text of four columns: index of the text, loss, student's and teacher's probability."""
    texts = decode(turn.action_ids)
    if len(texts) != len(turn.action_ids):
        raise HeroError(
            f"decode returned {len(texts)} texts for {len(turn.action_ids)} ids at turn {turn.number}. "
            "It must return one text per id, in order."
        )
    columns = [losses, *([f"{value:.4g}" for value in values or ()] for values in (student, teacher))]
    words = ",".join(map(str, chunks.words(texts)))
    return f"[[{words}],{','.join(_column(column) for column in columns)}]"


def _column(numbers: list[str]) -> str:
    """JSON text of a column; nan and inf, which JSON does not have, are null."""
    joined = ",".join(numbers)
    if "n" in joined:
        joined = ",".join("null" if "n" in number else number for number in numbers)
    return f"[{joined}]"


def _mean(values: _Values) -> float | None:
    scored = [value for value in values or () if not math.isnan(value)]
    return short(sum(scored) / len(scored)) if scored else None


def short(value: float | None) -> float | None:
    """Round to four digits; ``None`` for values that JSON does not have."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
