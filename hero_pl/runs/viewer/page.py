"""Write the records of a run as one HTML file that needs no server and no network.

Outside text (observations, diagnoses) is in the page only as JSON inside a data block and is shown only in text nodes,
so it can never become markup. The content security policy of the page allows only its own style and script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import warnings
from collections.abc import Callable, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeAlias

from hero_pl.errors import HeroError
from hero_pl.runs.jsonl import TornLineWarning
from hero_pl.runs.records import Record, read_records, succeeded
from hero_pl.runs.viewer.summary import StageSummary
from hero_pl.types import Reflection, Turn

Decode: TypeAlias = Callable[[Sequence[int]], list[str]]
"""Function from the ids of one action to the text of each id."""


def write_html(records_path: Path, out_path: Path, decode: Decode | None = None) -> int:
    """Write the page and return the number of episodes in it.

    Args:
        records_path: A ``trajectories.jsonl``.
        out_path: HTML file to write; an existing file is replaced.
        decode: Returns the text of each sampled id, so that every token gets its own color. Without it each turn is
            colored by its mean loss.

    Raises:
        HeroError: The records cannot be read, ``decode`` does not return one text per id, or ``out_path`` cannot be
            written.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TornLineWarning)
        page, count = build_page(records_path, decode)
    for warning in caught:
        warnings.warn(warning.message, warning.category, stacklevel=2)
    try:
        out_path.parent.mkdir(parents=True, exist_ok=True)
        out_path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise HeroError(f"{out_path}: cannot write the page ({error.strerror or error}). Give another path.") from error
    return count


def is_per_token(page: Path) -> bool:
    """Whether a page written by :func:`write_html` colors single tokens."""
    try:
        return '"per_token":true' in page.read_text(encoding="utf-8")  # in outside text the quotes are escaped
    except (OSError, ValueError):
        return False


def build_page(records_path: Path, decode: Decode | None = None) -> tuple[str, int]:
    """Return the page as text, and the number of episodes in it."""
    shared: dict[str, int] = {}
    stages: dict[str, StageSummary] = {}
    losses: list[float] = []
    means: list[float] = []
    episodes: list[dict[str, Any]] = []
    for record in read_records(records_path):
        stages.setdefault(record.stage, StageSummary(record.stage)).add(record)
        losses += [loss for values in record.token_loss or () for loss in values or ()]
        means += [mean for values in record.token_loss or () if (mean := _mean(values)) is not None]
        episodes.append(_episode(record, shared, decode))
    name = f"{records_path.resolve().parent.name}/{records_path.name}"
    data = {
        "name": name,
        "token_scale": _scale(losses),
        "turn_scale": _scale(means),
        "open": _explained(episodes),
        "per_token": decode is not None,
        "stages": [_stage(summary) for summary in stages.values()],
        "shared": list(shared),
        "episodes": episodes,
    }
    return fill_page(files(__package__), "page", name, data), len(episodes)


def _explained(episodes: Sequence[dict[str, Any]]) -> int:
    """The episode to open first: one with a diagnosis, else one with a loss; evaluations before them have neither."""
    diagnosed = (i for i, one in enumerate(episodes) if any("diagnosis" in turn for turn in one["turns"]))
    scored = (i for i, one in enumerate(episodes) if any(turn["mean"][0] is not None for turn in one["turns"]))
    return next(diagnosed, next(scored, 0))


def fill_page(folder: Traversable, stem: str, title: str, data: dict[str, Any]) -> str:
    """Fill title, style, data and script into a template in one pass, so that data is never read as a placeholder.

    Args:
        folder: Folder with the template ``stem.html`` and with ``stem.css`` and ``stem.js``.
        stem: Name of these files without the ending.
        title: Title of the page.
        data: JSON values of the data block.
    """
    style = folder.joinpath(f"{stem}.css").read_text(encoding="utf-8")
    script = folder.joinpath(f"{stem}.js").read_text(encoding="utf-8")
    policy = f"default-src 'none'; style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'"
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    # Inside <script>, "<" could end the block or open a comment; escaped, it is the same JSON.
    values = {
        "title": html.escape(title),
        "policy": policy,
        "style": style,
        "script": script,
        "data": text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"),
    }
    template = folder.joinpath(f"{stem}.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _hash(text: str) -> str:
    """Hash of an inline block, as a content security policy expects it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _scale(losses: list[float]) -> float | None:
    """Loss with the full color: the 95th percentile, so that a single outlier does not make all others pale."""
    positive = sorted(loss for loss in losses if 0 < loss < math.inf)
    return _short(positive[int(0.95 * (len(positive) - 1))]) if positive else None


def _stage(summary: StageSummary) -> dict[str, Any]:
    return {
        "stage": summary.stage,
        "episodes": summary.episodes,
        "broken": summary.broken,
        "success": summary.success,
        "floor": summary.floor,
        "users": sorted(summary.users),
        "reward": _short(summary.mean_reward),
        "turns": summary.turns_per_episode,
        "coverage": summary.coverage,
        "malformed": summary.malformed,
    }


def _episode(record: Record, shared: dict[str, int], decode: Decode | None) -> dict[str, Any]:
    """Data of one episode; texts that repeat across episodes are stored once, in ``shared``."""
    trajectory, reflection = record.trajectory, record.reflection
    count = len(trajectory.turns)
    diagnoses = reflection.diagnoses if reflection else (None,) * count
    columns = [
        per_turn or (None,) * count for per_turn in (record.token_loss, record.token_student, record.token_teacher)
    ]
    turns = []
    for turn, diagnosis, loss, student, teacher in zip(trajectory.turns, diagnoses, *columns, strict=True):
        entry = _turn(turn, loss, student, teacher, decode)
        if diagnosis is not None:
            target = diagnosis.next_action_target
            entry["diagnosis"] = {
                "text": diagnosis.text,
                "confidence": diagnosis.confidence,
                "target": None if target is None else json.dumps(target, ensure_ascii=False),
            }
        turns.append(entry)
    tools = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in trajectory.tools)
    return {
        "task": trajectory.task_id,
        "env": trajectory.env_id,
        "seed": trajectory.seed,
        "group": trajectory.group,
        "stage": record.stage,
        "step": record.step,
        "version": trajectory.policy_version,
        "reward": _short(trajectory.reward),
        "ok": succeeded(trajectory),
        "stop": trajectory.stop_reason.value,
        "error": str(trajectory.info.get("error", "")),
        "system": shared.setdefault(trajectory.system_prompt, len(shared)),
        "tools": shared.setdefault(tools, len(shared)),
        "first": trajectory.first_observation,
        "reflection": None if reflection is None else _reflection(reflection),
        "turns": turns,
    }


def _reflection(reflection: Reflection) -> dict[str, Any]:
    return {
        "status": reflection.status,
        "issues": [f"{code} (turn {turn})" if turn else code for code, turn in reflection.issues],
        "raw": reflection.raw if reflection.status != "ok" else "",
    }


_Values: TypeAlias = "tuple[float, ...] | None"


def _turn(turn: Turn, loss: _Values, student: _Values, teacher: _Values, decode: Decode | None) -> dict[str, Any]:
    """Data of one turn; ``tokens`` holds rows of text, loss, student and teacher probability."""
    entry: dict[str, Any] = {
        "text": turn.text,
        "action": turn.action,
        "observation": turn.observation,
        "role": turn.role,
        "finish": turn.finish_reason.value,
        "malformed": turn.malformed,
        "ids": len(turn.action_ids),
        "mean": [_mean(loss), _mean(student), _mean(teacher)],
    }
    if decode is not None:
        texts = decode(turn.action_ids)
        if len(texts) != len(turn.action_ids):
            raise HeroError(
                f"decode returned {len(texts)} texts for {len(turn.action_ids)} ids at turn {turn.number}. "
                "It must return one text per id, in order."
            )
        nothing = (None,) * len(texts)
        rows = zip(texts, loss or nothing, student or nothing, teacher or nothing, strict=True)
        entry["tokens"] = [[text, *(_short(value) for value in values)] for text, *values in rows]
    return entry


def _mean(values: _Values) -> float | None:
    scored = [value for value in values or () if not math.isnan(value)]
    return _short(sum(scored) / len(scored)) if scored else None


def _short(value: float | None) -> float | None:
    """Round to four digits; ``None`` for values that JSON does not have."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")
