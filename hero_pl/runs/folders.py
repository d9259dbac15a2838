"""Find the records of one run."""

from __future__ import annotations

from pathlib import Path

from hero_pl.errors import ConfigError
from hero_pl.runs.records import RECORDS_FILE, records_path

MOST_LISTED = 10


def one_run(run: Path) -> Path:
    """The records of a run: given as the file, as the run folder, or as a folder with that one run below it.

    Raises:
        ConfigError: There is no such run, or more than one.
    """
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
