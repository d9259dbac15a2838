"""Which code started a run: ``starts.jsonl`` in the run folder has one line per start of the program."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hero_pl.runs.jsonl import append_lines, read_lines

STARTS_FILE = "starts.jsonl"
CHECKOUT = Path(__file__).resolve().parents[2]
"""Folder above the package; the root of the repository if the package is not installed from a wheel."""
PACKAGES = ("torch", "transformers", "lightning", "gymnasium")


def commit(folder: Path = CHECKOUT) -> str:
    """Commit of a git checkout, ending in ``-dirty`` if files were changed; empty if ``folder`` is no root of one."""
    if not (
        folder / ".git"
    ).exists():  # a package in a virtual environment inside somebody's repository is not that one
        return ""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):  # no git, or a very slow disk
        return ""
    return done.stdout.strip()


def note_start(run: Path, hero_pl: str, checkpoint: str | None = None) -> None:
    """Append one line about this start of the program to ``starts.jsonl``.

    Args:
        run: Folder of the run.
        hero_pl: Version of the package.
        checkpoint: File that the run continues from.
    """
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = ""
    row = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hero_pl": hero_pl,
        "commit": commit(),
        "project_commit": commit(Path.cwd()),
        "python": platform.python_version(),
        "packages": installed,
        "checkpoint": checkpoint,
    }
    append_lines(run / STARTS_FILE, [row])


def starts(run: Path) -> list[dict[str, Any]]:
    """The starts of a run, the first one first; empty for a run that has not recorded any."""
    path = run / STARTS_FILE
    return [row for _, row in read_lines(path)] if path.exists() else []
