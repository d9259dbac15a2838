"""The other training processes of this machine, which Lightning starts and the first one has to end."""

from __future__ import annotations

import subprocess
import time
from typing import Any

AGREED_S, ALONE_S = 60.0, 5.0
"""Seconds to wait for the other processes if all have stopped at the same step, and if this one failed alone."""


def take_over(launcher: Any) -> list[subprocess.Popen[bytes]]:
    """The processes of a launcher, which no longer watches them.

    Lightning's watcher kills this process within 5 seconds after another one has ended with a status that is not 0,
    also while it saves.
    """
    watched: list[subprocess.Popen[bytes]] = getattr(launcher, "procs", [])
    children = list(watched)
    watched.clear()
    return children


def end(children: list[subprocess.Popen[bytes]], patience_s: float) -> None:
    """Wait for the processes; kill those that have not ended by then, such as one that hangs."""
    limit = time.monotonic() + patience_s
    for child in children:
        try:
            child.wait(max(0.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
