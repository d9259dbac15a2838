"""Which code made a file of results."""

from __future__ import annotations

import subprocess

from suites import ROOT


def commit() -> str:
    """Of the checkout, with a mark if it was changed; empty without git."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git on this machine
        return ""


def signed(markdown: str) -> str:
    """A Markdown page with the commit in its last line."""
    return f"{markdown.rstrip()}\n\nMade on commit {commit() or 'unknown'}.\n"
