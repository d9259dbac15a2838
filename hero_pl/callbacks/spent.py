"""What a run has paid for, in a file of its folder: no checkpoint has the tokens of a batch that was interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hero_pl.callbacks.run_folder import replace_file
from hero_pl.errors import HeroError

SPENT_FILE = "spent.json"
COUNT = "spent_tokens"
"""Key of a count in the state of a part."""


def note_spent(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the counts in the state of an objective; without any, no file is written.

    Args:
        folder: Folder of the run.
        state: State of its objective now.

    Raises:
        HeroError: The file cannot be written.
    """
    counts = dict(_counts(state))
    if not counts:
        return
    path = folder / SPENT_FILE
    try:
        replace_file(path, json.dumps(counts) + "\n")
    except OSError as error:
        raise HeroError(f"{path} cannot be written ({error}). Free some space, then resume the run.") from error


def with_spent(state: Mapping[str, Any], folder: Path | None) -> Mapping[str, Any]:
    """The state of a checkpoint, with the count of the file wherever that is larger.

    Args:
        state: State of an objective.
        folder: Folder of the run that goes on; ``None`` if it is another run than that of the checkpoint.

    Raises:
        HeroError: The file is damaged.
    """
    path = None if folder is None else folder / SPENT_FILE
    if path is None or not path.exists():
        return state
    try:
        noted = {str(place): int(count) for place, count in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise HeroError(
            f"{path} cannot be read ({error}). Repair it, or remove it to go on with the count of the checkpoint."
        ) from error
    return _raised(state, noted)


def _counts(state: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, int]]:
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from _counts(value, f"{place}{key}/")
        elif key == COUNT:
            yield place + key, int(value)


def _raised(state: Mapping[str, Any], noted: Mapping[str, int], place: str = "") -> dict[str, Any]:
    raised = dict(state)
    for key, value in state.items():
        if isinstance(value, Mapping):
            raised[key] = _raised(value, noted, f"{place}{key}/")
        elif key == COUNT:
            raised[key] = max(int(value), noted.get(place + key, 0))
    return raised
