"""Find runs: a path that must be there, and the records of one run."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from hero_pl.errors import ConfigError
from hero_pl.runs.records import RECORDS_FILE, records_path

MOST_LISTED = 10


def must_exist(path: Path, kind: Literal["file", "folder", "run", "checkpoint"], cure: str) -> None:
    """Refuse a path that is not there, and a folder or file in the place of the other.

    Args:
        path: What was given.
        kind: What is expected there; a run and a checkpoint may be a file or a folder.
        cure: What to do instead; the end of the message.

    Raises:
        ConfigError: With the nearest name in the same folder, if there is one.
    """
    if {"file": path.is_file, "folder": path.is_dir}.get(kind, path.exists)():
        return
    if path.exists():
        raise ConfigError(f"{path} is a {'folder' if path.is_dir() else 'file'}, and a {kind} is expected. {cure}")
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f" Did you mean {path.parent / near[0]}?" if near else ""
    named = kind if kind != "run" else "file" if path.suffix else "folder"
    raise ConfigError(f"There is no {named} {path}.{hint} {cure}")


def one_run(run: Path) -> Path:
    """The records of a run: given as the file, as the run folder, or as a folder with that one run below it.

    Raises:
        ConfigError: There is no such run, or more than one.
    """
    must_exist(run, "run", f"Name the folder of a run, or a {RECORDS_FILE}.")
    path = records_path(run)
    if not run.is_dir() or path.exists():
        return path
    found = sorted(run.rglob(RECORDS_FILE))
    if not found:
        raise ConfigError(
            f"{run}: no {RECORDS_FILE} in it. Give the folder of a run with trajectories.every_n_steps above 0."
        )
    if len(found) > 1:
        shown = [str(path.parent) for path in found[:MOST_LISTED]]
        shown += [f"and {len(found) - MOST_LISTED} more"] * (len(found) > MOST_LISTED)
        raise ConfigError(f"{run} holds {len(found)} runs; name one of them:\n  " + "\n  ".join(shown))
    return found[0]
