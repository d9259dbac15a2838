"""Check paths given by the user, to read or to write, and find the records of one run."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    with _named(path, "opened", cure):
        found = "folder" if path.is_dir() else "file" if path.is_file() else "device or pipe" if path.exists() else ""
        beside = [other.name for other in path.parent.iterdir()] if not found and path.parent.is_dir() else []
    if found and (found == kind or kind in ("run", "checkpoint")):
        return
    if found:
        raise ConfigError(f"{path} is a {found}; expected a {kind}. {cure}")
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f" Did you mean {path.parent / near[0]}?" if near else ""
    named = kind if kind != "run" else "file" if path.suffix else "folder"
    raise ConfigError(f"There is no {named} {path}.{hint} {cure}")


def must_be_new(folder: Path, cure: str) -> None:
    """Raise if files cannot be written to a folder without mixing them with others; nothing is made.

    Args:
        folder: New or empty; hidden entries, such as ``.git``, may be there.
        cure: End of the message: what to do instead.

    Raises:
        ConfigError: It has files, a file is in the way, or it cannot be written.
    """
    with _named(folder, "opened", cure):
        if _nearest(folder, cure) == folder and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise ConfigError(f"{folder} exists and is not empty. {cure}")


def must_be_writable(path: Path, cure: str, suffixes: Sequence[str] = ()) -> None:
    """Make the folder of an output file, and raise if the file cannot be written; call it before the work begins.

    Args:
        path: Path given by the user.
        cure: End of the message: what to do instead.
        suffixes: Accepted endings of the name; default: any.

    Raises:
        ConfigError: The path is a folder, has another ending, or cannot be written.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise ConfigError(f"{path}: expected a name that ends with {' or '.join(suffixes)}. {cure}")
    with _named(path, "opened", cure):
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; expected a file. {cure}")
        _nearest(path.parent, cure)
    with _named(path.parent, "made", cure):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not os.access(path, os.W_OK):
        raise ConfigError(f"{path} cannot be written. {cure}")


@contextmanager
def _named(path: Path, what: str, cure: str) -> Iterator[None]:
    """Name the path in an error of the system: a name that is too long, or a folder that may not be read."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{str(path)[:LONGEST]} cannot be {what}: {error.strerror or error}. {cure}") from error


def _nearest(folder: Path, cure: str) -> Path:
    """The folder, or the first one above it that exists.

    Raises:
        ConfigError: A file is in the way, or it cannot be written.
    """
    there = next((path for path in (folder, *folder.parents) if path.exists()), Path())
    if not there.is_dir():
        raise ConfigError(f"{there} is a file; expected a folder. {cure}")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"{there} cannot be written. {cure}")
    return there


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
