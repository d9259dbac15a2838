"""The process group of a worker: the worker and the processes that its environments started end together."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from multiprocessing.process import BaseProcess


def lead_group() -> None:
    """Give this process a group of its own; Ctrl-C is then for the trainer alone."""
    if hasattr(os, "setsid"):
        os.setsid()


def kill_group(process: BaseProcess) -> None:
    """Kill a process and its group, if it has not ended."""
    if process.is_alive():
        pid = process.pid or 0
        with suppress(OSError):
            if hasattr(os, "killpg") and os.getpgid(pid) == pid:  # otherwise it has no group yet
                os.killpg(pid, signal.SIGKILL)
        process.kill()


def kill_own_group() -> None:
    """Kill this process with its group."""
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
