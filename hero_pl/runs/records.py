"""``trajectories.jsonl``: the episodes of a run with their reflections and token losses, one JSON object per line.

A line holds ``schema``, ``stage``, ``step``, ``trajectory``, ``reflection``, ``token_loss``, ``token_student``,
``token_teacher`` and ``hints``. All fields of :mod:`hero_pl.types` are kept, and reading returns exactly what was
written. A prompt mostly repeats the previous prompt and action, so ``prompt_shared`` counts the leading ids that are
the same and ``prompt_ids`` holds only the rest.

The module also defines when an episode is evaluable, when it succeeded, and when a turn was refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hero_pl.errors import HeroError
from hero_pl.runs.jsonl import append_lines, read_lines
from hero_pl.types import Diagnosis, FinishReason, Hint, Reflection, StopReason, Trajectory, Turn

RECORDS_FILE = "trajectories.jsonl"
"""Name of the file in a run folder."""
SCHEMA_VERSION = 1
"""Increased when an older reader would misread a line; not for a new field with a default."""

TOLERANCE = 1e-6
"""Rewards up to this much below a threshold count as reaching it."""

PerToken: TypeAlias = "tuple[tuple[float, ...] | None, ...]"
"""Per turn: one number per id of ``Turn.action_ids`` (NaN if not scored), or ``None`` for a turn without scores."""


@dataclass(frozen=True, slots=True)
class Record:
    """One logged episode."""

    stage: str
    """Purpose of the episode: ``train``, ``validate``, ``test``, ``rollout``, ..."""
    step: int
    """Number of optimizer steps before the episode was logged."""
    trajectory: Trajectory
    reflection: Reflection | None = None
    token_loss: PerToken | None = None
    """Divergence between student and teacher, in nats."""
    token_student: PerToken | None = None
    """Student's probability of the sampled id."""
    token_teacher: PerToken | None = None
    """Teacher's probability of the same id."""
    hints: tuple[Hint | None, ...] | None = None
    """Per turn: the hint that was in the teacher's context, or ``None`` for a turn that the teacher did not score."""


def append_records(path: Path, records: Iterable[Record]) -> int:
    """Append records and return how many were written.

    Raises:
        HeroError: A record is inconsistent or not JSON, or the write failed; the message says which lines were written.
    """
    return append_lines(path, (to_record(record) for record in records))


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file in order.

    An unfinished last line is skipped with a :class:`hero_pl.runs.jsonl.TornLineWarning` that gives its position.

    Raises:
        HeroError: The file cannot be read, or a finished line is not a record of a known schema.
    """
    for number, data in read_lines(path):
        try:
            record = from_record(data)
        except HeroError as error:
            raise HeroError(f"{path}, line {number}: {error}") from error
        yield record


def records_path(run: Path) -> Path:
    """Path of the records of a run, given its folder or the file itself."""
    return run / RECORDS_FILE if run.is_dir() else run


# -- status of an episode ----------------------------------------------------------------------------------------------

BROKEN = (StopReason.ENV_ERROR, StopReason.ENV_TIMEOUT, StopReason.ENDPOINT_ERROR, StopReason.SAMPLER_ERROR)


def evaluable(trajectory: Trajectory) -> bool:
    """Whether the episode measures the policy: it did not end with an error of environment, user, server or sampler."""
    return trajectory.stop_reason not in BROKEN


def succeeded(trajectory: Trajectory) -> bool:
    """What the environment reports in ``info["success"]``; without a report, whether the final reward reaches 1."""
    reported = trajectory.info.get("success")
    return reported if isinstance(reported, bool) else reaches(trajectory, 1.0)


def reaches(trajectory: Trajectory, threshold: float) -> bool:
    """Whether the final reward reaches a threshold, up to ``TOLERANCE``."""
    return trajectory.reward >= threshold - TOLERANCE


def is_error(observation: str) -> bool:
    """Whether the observation reports that the action could not be executed.

    Example:
        >>> is_error("Error: order not found"), is_error("Unknown action fly"), is_error("error: find: a kettle")
        (True, True, True)
        >>> is_error("Your reply could not be read as an action: it is empty")
        False
    """
    return observation.lower().startswith(("error", "unknown action "))


def refused(turn: Turn) -> bool:
    """Whether the reply could not be parsed as an action, or the environment answered with an error."""
    return turn.malformed is not None or is_error(turn.observation)


# -- lines -------------------------------------------------------------------------------------------------------------


def to_record(record: Record) -> dict[str, Any]:
    """Convert a record to the JSON object of one line.

    Raises:
        HeroError: Diagnoses, hints or per-token numbers do not match the turns.
    """
    _check_lengths(record)
    turns = []
    earlier: tuple[int, ...] = ()
    for turn in record.trajectory.turns:
        shared = _common_prefix(earlier, turn.prompt_ids)
        data = _fields(turn)
        data["prompt_shared"] = shared
        data["prompt_ids"] = list(turn.prompt_ids[shared:])
        data["action_ids"] = list(turn.action_ids)
        data["action_logprobs"] = _pack(turn.action_logprobs)
        data["finish_reason"] = turn.finish_reason.value
        turns.append(data)
        earlier = turn.prompt_ids + turn.action_ids
    trajectory = _fields(record.trajectory)
    trajectory["turns"] = turns
    trajectory["tools"] = list(record.trajectory.tools)
    trajectory["failures"] = list(record.trajectory.failures)
    trajectory["reward"] = _pack_one(record.trajectory.reward)
    trajectory["stop_reason"] = record.trajectory.stop_reason.value
    reflection = None
    if record.reflection is not None:
        reflection = _fields(record.reflection)
        reflection["diagnoses"] = [None if one is None else _fields(one) for one in record.reflection.diagnoses]
        reflection["issues"] = [list(issue) for issue in record.reflection.issues]
    return {
        "schema": SCHEMA_VERSION,
        "stage": record.stage,
        "step": record.step,
        "trajectory": trajectory,
        "reflection": reflection,
        "token_loss": _pack_turns(record.token_loss),
        "token_student": _pack_turns(record.token_student),
        "token_teacher": _pack_turns(record.token_teacher),
        "hints": None if record.hints is None else [None if hint is None else _fields(hint) for hint in record.hints],
    }


def from_record(data: Mapping[str, Any]) -> Record:
    """Convert the JSON object of one line to a record; the inverse of :func:`to_record`.

    Raises:
        HeroError: The schema is newer than this version, or a field is missing, unknown or of the wrong kind.
    """
    schema = data.get("schema")
    if type(schema) is not int or schema < 1:
        raise HeroError(
            f"schema is {schema!r}; expected a whole number from 1 to {SCHEMA_VERSION}. "
            f"Is this the {RECORDS_FILE} of a run?"
        )
    if schema > SCHEMA_VERSION:
        raise HeroError(
            f"schema {schema} is newer than this version of hero_pl, which reads up to {SCHEMA_VERSION}. Upgrade "
            "hero_pl, or read the file with the version that wrote it."
        )
    try:
        record = Record(
            stage=data["stage"],
            step=data["step"],
            trajectory=_trajectory(data["trajectory"]),
            reflection=None if data["reflection"] is None else _reflection(data["reflection"]),
            token_loss=_unpack_turns(data["token_loss"]),
            token_student=_unpack_turns(data["token_student"]),
            token_teacher=_unpack_turns(data["token_teacher"]),
            hints=_hints(data.get("hints")),  # records of version 0.1.0 have none
        )
    except KeyError as error:
        raise HeroError(
            f"field {error} is missing; schema {schema} requires it. Was the line changed by hand?"
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise HeroError(f"a field has an unknown name or value: {error}. Was the line changed by hand?") from error
    _check_lengths(record)
    return record


def _trajectory(data: Mapping[str, Any]) -> Trajectory:
    """Read one trajectory and restore its prompts.

    Records of version 0.1.0 have one ``policy_version`` for the whole episode; it is copied to each turn.
    """
    turns: list[Turn] = []
    earlier: tuple[int, ...] = ()
    of_episode = {"policy_version": data["policy_version"]} if "policy_version" in data else {}
    for entry in data["turns"]:
        values = of_episode | dict(entry)
        shared = values.pop("prompt_shared")
        if not 0 <= shared <= len(earlier):
            raise ValueError(f"prompt_shared is {shared}, but only {len(earlier)} ids come before it")
        values["prompt_ids"] = earlier[:shared] + tuple(entry["prompt_ids"])
        values["action_ids"] = tuple(entry["action_ids"])
        values["action_logprobs"] = _unpack(entry["action_logprobs"])
        values["finish_reason"] = FinishReason(entry["finish_reason"])
        turn = Turn(**values)
        turns.append(turn)
        earlier = turn.prompt_ids + turn.action_ids
    values = {name: value for name, value in data.items() if name not in of_episode}
    values["turns"] = tuple(turns)
    values["tools"] = tuple(data["tools"])
    values["failures"] = tuple(data.get("failures", ()))
    values["reward"] = float(data["reward"])
    values["stop_reason"] = StopReason(data["stop_reason"])
    return Trajectory(**values)


def _reflection(data: Mapping[str, Any]) -> Reflection:
    """Read one reflection."""
    values = dict(data)
    values["diagnoses"] = tuple(None if one is None else Diagnosis(**one) for one in data["diagnoses"])
    values["issues"] = tuple((code, turn) for code, turn in data["issues"])
    return Reflection(**values)


def _hints(data: Sequence[Mapping[str, Any] | None] | None) -> tuple[Hint | None, ...] | None:
    """Read the hints of one episode."""
    return None if data is None else tuple(None if one is None else Hint(**one) for one in data)


def _check_lengths(record: Record) -> None:
    """Check the lengths of all per-turn and per-token lists."""
    turns = record.trajectory.turns
    place = f"task {record.trajectory.task_id!r}"
    if record.reflection is not None and len(record.reflection.diagnoses) != len(turns):
        raise HeroError(
            f"{place}: {len(record.reflection.diagnoses)} diagnoses for {len(turns)} turns. "
            "A reflection has one diagnosis or None per turn."
        )
    if record.hints is not None and len(record.hints) != len(turns):
        raise HeroError(f"{place}: {len(record.hints)} hints for {len(turns)} turns. Give one hint or None per turn.")
    for name in ("token_loss", "token_student", "token_teacher"):
        per_turn: PerToken | None = getattr(record, name)
        if per_turn is None:
            continue
        if len(per_turn) != len(turns):
            raise HeroError(
                f"{place}: {name} has {len(per_turn)} turns, the trajectory {len(turns)}. Give one entry per turn."
            )
        for turn, values in zip(turns, per_turn, strict=True):
            if values is not None and len(values) != len(turn.action_ids):
                raise HeroError(
                    f"{place}, turn {turn.number}: {name} has {len(values)} numbers for {len(turn.action_ids)} sampled "
                    "ids. Give one per id, or None for a turn that was not scored."
                )


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, one level deep; a new field is included automatically."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for i, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return i
    return min(len(left), len(right))


def _pack_one(value: float) -> float | str:
    """Encode NaN and infinities, which JSON does not have, as strings that ``float`` can read."""
    return value if math.isfinite(value) else str(float(value))


def _pack(values: Sequence[float]) -> list[float | str]:
    return [_pack_one(value) for value in values]


def _pack_turns(per_turn: PerToken | None) -> list[list[float | str] | None] | None:
    return None if per_turn is None else [None if values is None else _pack(values) for values in per_turn]


def _unpack(values: Sequence[float | str]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _unpack_turns(per_turn: Sequence[Sequence[float | str] | None] | None) -> PerToken | None:
    return None if per_turn is None else tuple(None if values is None else _unpack(values) for values in per_turn)
