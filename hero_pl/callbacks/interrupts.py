"""Signals that end a run: SIGTERM, SIGINT (Ctrl-C), and SIGUSR1, by which schedulers say that they take a job away."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class Interrupted(SystemExit):
    """Ends the process with 128 + the number of the signal, as shells say it; no ``except Exception`` keeps it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class Interrupts:
    """Raises :class:`Interrupted` where the signal arrives, or later while ``held``; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.held = False
        """Whether a step is being applied or saved, which must not be cut in two."""
        self._before: dict[int, Any] = {}
        self._forward: Callable[[int], None] = lambda number: None

    def listen(self, forward: Callable[[int], None] = lambda number: None) -> None:
        """Take the signals over; only the main thread can.

        Args:
            forward: Called once with the number of the signal, for processes that this one has started.
        """
        if threading.current_thread() is threading.main_thread() and not self._before:
            self.received, self._forward = None, forward
            self._before = {number: signal.signal(number, self._handle) for number in ENDING}

    def stop_listening(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def release(self) -> None:
        """Hold no longer; raise what has arrived meanwhile.

        Raises:
            Interrupted: A signal has been received.
        """
        self.held = False
        if self.received is not None:
            raise Interrupted(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGINT:
                os._exit(128 + number)
            return
        self.received = number
        # print() may be what was interrupted, and it cannot be entered twice
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"\nhero_pl: saving; Ctrl-C ends at once\n")
        self._forward(number)
        if not self.held:
            raise Interrupted(number)
