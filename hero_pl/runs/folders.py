"""Check paths given by the user, and find the records of one run."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from hero_pl.errors import ConfigError
from hero_pl.runs.records import RECORDS_FILE, records_path

MOST_LISTED = 10
LONGEST = 200
"""Characters of a path in a message at most."""


def must_exist(path: Path, kind: Literal["file", "folder", "run", "checkpoint"], cure: str) -> None:
    """Raise if a path does not exist, or is a file where a folder is expected, or the reverse.

    Args:
        path: Path given by the user.
        kind: Expected kind; a run and a checkpoint may be a file or a folder.
        cure: End of the message: what to do instead.

    Raises:
        ConfigError: The check failed; the message suggests the closest name in the same folder, if there is one.
    """
    try:
        found = "folder" if path.is_dir() else "file" if path.is_file() else "device or pipe" if path.exists() else ""
        beside = [other.name for other in path.parent.iterdir()] if not found and path.parent.is_dir() else []
    except OSError as error:  # a name that is too long, or a folder that may not be read
        raise ConfigError(f"{str(path)[:LONGEST]} cannot be opened: {error.strerror or error}. {cure}") from error
    if found and (found == kind or kind in ("run", "checkpoint")):
        return
    if found:
        raise ConfigError(f"{path} is a {found}; expected a {kind}. {cure}")
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f" Did you mean {path.parent / near[0]}?" if near else ""
    named = kind if kind != "run" else "file" if path.suffix else "folder"
    raise ConfigError(f"There is no {named} {path}.{hint} {cure}")


def one_run(run: Path) -> Path:
    """Path of the records of a run, given the file, the run folder, or a folder with exactly one run below it.

    Raises:
        ConfigError: There is no run, or more than one.
    """
    must_exist(run, "run", f"Give the folder of a run, or a {RECORDS_FILE}.")
    path = records_path(run)
    if not run.is_dir() or path.exists():
        return path
    files = sorted(run.rglob(RECORDS_FILE))
    if not files:
        raise ConfigError(
            f"{run} contains no {RECORDS_FILE}. Give the folder of a run with trajectories.every_n_steps above 0."
        )
    if len(files) > 1:
        shown = [str(path.parent) for path in files[:MOST_LISTED]]
        shown += [f"and {len(files) - MOST_LISTED} more"] * (len(files) > MOST_LISTED)
        raise ConfigError(f"{run} contains {len(files)} runs; give one of them:\n  " + "\n  ".join(shown))
    return files[0]
