"""Largest memory of a process."""

from __future__ import annotations

import resource
import sys


def peak_mib(used: resource.struct_rusage | None = None) -> float:
    """Largest resident memory so far in MiB, of this process or of one whose resources were read."""
    used = resource.getrusage(resource.RUSAGE_SELF) if used is None else used
    return used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
