"""Episodes of a run as a data set: whole conversations, replies to imitate, or pairs of replies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from hero_pl.errors import ConfigError, HeroError
from hero_pl.export.defuse import Defuser
from hero_pl.export.messages import answer, as_call, conversation, instead, reply, takes_calls, tools
from hero_pl.reflection.target import canonical_action
from hero_pl.runs.folders import must_be_new
from hero_pl.runs.jsonl import append_lines
from hero_pl.runs.records import Record, evaluable, reaches, read_records, succeeded
from hero_pl.types import FinishReason, Trajectory, Turn

Format: TypeAlias = Literal["messages", "sft", "dpo"]
Row: TypeAlias = dict[str, Any]
DATA_FILE = "train.jsonl"
BLOCK = 1 << 30
"""Bytes that ``datasets`` must read at once: it takes the columns of the first block (10 MB by default) for those of
all rows, but messages with calls have keys that others lack, and the arguments of each tool have other names."""
ALL = "all"
"""Selects the episodes of every stage."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Selection of the episodes that become rows.

    Args:
        format: ``messages``: one row per episode, whatever its reward. ``sft``: one row per turn of an episode that
            reached ``min_reward``. ``dpo``: one row per pair of replies to the same context: the corrected action of a
            diagnosis and the action taken, and the first different actions of the best and the worst episode of a
            group.
        stage: Stage of the episodes, for example ``train``; ``all`` selects every stage. Episodes of other stages are
            held-out tasks, so a model that is trained on them can no longer be evaluated on them.
        min_reward: Smallest reward of an episode that ``sft`` uses, whatever ``info["success"]`` says.
    """

    format: Format
    stage: str = "train"
    min_reward: float = 1.0

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise ConfigError(f"--format {self.format!r}: expected one of {', '.join(get_args(Format))}.")


@dataclass(slots=True)
class Written:
    """Counts of what was written, and of what was left out and why."""

    rows: int = 0
    episodes: int = 0
    """Episodes of the stage."""
    environments: set[str] = field(default_factory=set)
    sources: Counter[str] = field(default_factory=Counter)
    """Number of rows by their source."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason -> number of episodes, turns or pairs."""
    broken_texts: int = 0
    """Texts with a control token that was split by a zero-width space."""


def write_data(records: Path, out: Path, selection: Selection, control: Iterable[str] = ()) -> Written:
    """Write the rows to ``train.jsonl`` in a new folder.

    Args:
        records: ``trajectories.jsonl`` of a run; it is read twice.
        out: Folder for the data set.
        selection: Selection of the rows.
        control: Control tokens of the run's tokenizer.

    Raises:
        ConfigError: The folder has files already, or cannot be written.
        HeroError: The records cannot be read, or they give no row.
    """
    must_be_new(out, "Name another folder with --out, or remove it.")
    target = out / DATA_FILE
    written, safe = Written(), Defuser(control)
    calls = any(takes_calls(record.trajectory) for record in read_records(records))
    wanted = _of_stage(read_records(records), selection.stage, written)
    makers = {"messages": _conversations, "sft": _replies, "dpo": _pairs}
    rows = makers[selection.format](wanted, selection, calls, safe, written)
    first = next(rows, None)
    if first is None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in written.left_out.items()) or "nothing was left out"
        raise HeroError(
            f"{records}: {written.episodes} episodes of the stage {selection.stage!r} give no row of the format "
            f"{selection.format!r} ({reasons}). Take another --stage, --format or --min-reward."
        )
    written.rows = append_lines(target, _counted([first], rows, written))
    written.broken_texts = safe.broken
    return written


def _of_stage(records: Iterator[Record], stage: str, written: Written) -> Iterator[Record]:
    for record in records:
        if stage not in (ALL, record.stage):
            written.left_out["episodes of another stage"] += 1
            continue
        written.episodes += 1
        written.environments.add(record.trajectory.env_id)
        if not evaluable(record.trajectory):
            written.left_out["episodes that ended with an error of environment, user or sampler"] += 1
        elif not record.trajectory.turns:
            written.left_out["episodes without a turn"] += 1
        else:
            yield record


def _counted(first: Sequence[Row], rows: Iterator[Row], written: Written) -> Iterator[Row]:
    for part in (first, rows):
        for row in part:
            written.sources[row.get("source", "episode")] += 1
            yield row


# -- formats -----------------------------------------------------------------------------------------------------------


def _conversations(
    records: Iterator[Record], selection: Selection, calls: bool, safe: Defuser, written: Written
) -> Iterator[Row]:
    for record in records:
        trajectory = record.trajectory
        yield {
            "messages": conversation(trajectory, safe),
            "tools": tools(trajectory, calls, safe),
            "final_observation": safe.outside(trajectory.turns[-1].observation),
            **_about(record),
        }


def _replies(
    records: Iterator[Record], selection: Selection, calls: bool, safe: Defuser, written: Written
) -> Iterator[Row]:
    for record in records:
        trajectory = record.trajectory
        if not reaches(trajectory, selection.min_reward):
            written.left_out[f"episodes with a reward below {selection.min_reward:g}"] += 1
            continue
        for turn, context in _turns(trajectory, safe):
            if (reason := _unusable(turn)) is not None:
                written.left_out[reason] += 1
                continue
            yield {
                "prompt": context,
                "completion": [reply(turn, safe)],
                "tools": tools(trajectory, calls, safe),
                "turn": turn.number,
                **_about(record),
            }


def _pairs(
    records: Iterator[Record], selection: Selection, calls: bool, safe: Defuser, written: Written
) -> Iterator[Row]:
    """Pairs from corrected actions and from groups; a group is complete when the next step begins."""
    for _, of_step in groupby(records, key=lambda record: (record.stage, record.step)):
        episodes = list(of_step)
        for record in episodes:
            yield from _corrected(record, calls, safe, written)
        groups: dict[int, list[Record]] = {}
        for record in episodes:
            groups.setdefault(record.trajectory.group, []).append(record)
        for group in groups.values():
            if len(group) > 1:
                yield from _best_and_worst(group, calls, safe, written)


def _corrected(record: Record, calls: bool, safe: Defuser, written: Written) -> Iterator[Row]:
    if record.reflection is None:
        return
    trajectory = record.trajectory
    for (turn, context), diagnosis in zip(_turns(trajectory, safe), record.reflection.diagnoses, strict=True):
        if diagnosis is None or diagnosis.next_action_target is None:
            continue
        action, rejected = canonical_action(diagnosis.next_action_target), reply(turn, safe)
        chosen = instead(turn, action, calls, safe)
        if chosen == rejected or (as_call(action) or action) == (as_call(turn.action) or turn.action):
            written.left_out["corrected actions that equal the action taken"] += 1
            continue
        yield {
            "prompt": context,
            "chosen": [chosen],
            "rejected": [rejected],
            "tools": tools(trajectory, calls, safe),
            "source": "corrected_action",
            "confidence": diagnosis.confidence,
            "turn": turn.number,
            **_about(record),
            "rejected_reward": trajectory.reward,
        }


def _best_and_worst(group: Sequence[Record], calls: bool, safe: Defuser, written: Written) -> Iterator[Row]:
    """The first pair of different actions of two episodes; both have the same context before it."""
    best = max(group, key=lambda record: record.trajectory.reward)
    worst = min(group, key=lambda record: record.trajectory.reward)
    if math.isclose(best.trajectory.reward, worst.trajectory.reward, abs_tol=1e-6):
        written.left_out["groups with equal rewards"] += 1
        return
    pairs = zip(_turns(best.trajectory, safe), _turns(worst.trajectory, safe), strict=False)
    for (good, context), (bad, other) in pairs:
        if context != other:  # the environment answered differently
            break
        chosen, rejected = reply(good, safe), reply(bad, safe)
        if chosen == rejected:
            continue
        if good.action == bad.action:  # only the text around the action differs
            break
        if _unusable(good) is not None:
            written.left_out["groups whose better reply could not be read as an action or was cut"] += 1
            return
        yield {
            "prompt": context,
            "chosen": [chosen],
            "rejected": [rejected],
            "tools": tools(best.trajectory, calls, safe),
            "source": "group",
            "confidence": "",
            "turn": good.number,
            **_about(best),
            "rejected_reward": worst.trajectory.reward,
        }
        return
    written.left_out["groups whose best and worst episode have no different action in one context"] += 1


# -- parts of a row ----------------------------------------------------------------------------------------------------


def _turns(trajectory: Trajectory, safe: Defuser) -> Iterator[tuple[Turn, list[dict[str, Any]]]]:
    """Each turn, with the messages before it."""
    context = conversation(trajectory, safe, ())
    for turn in trajectory.turns:
        yield turn, list(context)
        reply_message = reply(turn, safe)
        context += [reply_message, answer(turn, reply_message, safe)]


def _unusable(turn: Turn) -> str | None:
    """Reason why a reply cannot be used as an example, or ``None``."""
    if turn.malformed is not None:
        return "replies that could not be read as an action"
    if turn.finish_reason is not FinishReason.STOP:
        return "replies that were cut at the token limit"
    return None


def _about(record: Record) -> Row:
    trajectory = record.trajectory
    return {
        "task_id": trajectory.task_id,
        "env_id": trajectory.env_id,
        "group": trajectory.group,
        "stage": record.stage,
        "step": record.step,
        "reward": trajectory.reward,
        "success": succeeded(trajectory),
        "stop_reason": trajectory.stop_reason.value,
        "temperature": trajectory.temperature,
        "policy_version": trajectory.policy_version,
    }
