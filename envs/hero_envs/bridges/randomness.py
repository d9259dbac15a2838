"""The global generators of Python and NumPy for packages that draw from them: a state of their own for each episode."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_LOCK = threading.RLock()
"""The generators belong to the process, so one environment at a time may set them (``limits.threads``)."""


class OwnRandomness:
    """State of the global generators that belongs to one episode; the rest of the program does not see it.

    A thread that draws from the global generators without this class at the same time does: play in worker processes
    (``limits.workers``) then.
    """

    def __init__(self) -> None:
        self._state = _state()

    @contextmanager
    def active(self, seed: int | None = None) -> Iterator[None]:
        """Give the global generators this state, and take it back at the end.

        Args:
            seed: Start from this seed, instead of where the last use ended.
        """
        with _LOCK:
            outside = _state()
            try:
                if seed is not None:
                    random.seed(seed)
                    np.random.seed(seed)
                else:
                    _set(self._state)
                yield
            finally:
                self._state = _state()
                _set(outside)


def _state() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state()


def _set(state: tuple[Any, Any]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
