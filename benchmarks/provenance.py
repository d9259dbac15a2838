"""Record which version of the code wrote a file of results."""

from __future__ import annotations

import subprocess

from suites import ROOT


def commit() -> str:
    """Commit of the checkout, marked if there are uncommitted changes; empty without git."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git on this machine
        return ""


def signed(markdown: str) -> str:
    """Append the commit to a Markdown page."""
    return f"{markdown.rstrip()}\n\nMade on commit {commit() or 'unknown'}.\n"
