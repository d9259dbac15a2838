"""Signals that end a run: SIGTERM, SIGINT (Ctrl-C), and SIGUSR1, which schedulers send before they preempt a job."""

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
    """Exits with status 128 + signal number, as shells expect; ``except Exception`` does not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class Interrupts:
    """Raises :class:`Interrupted` on a signal, but not while ``held``; a second Ctrl-C exits immediately."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.held = False
        """Whether a step is being applied or saved, which must not be interrupted."""
        self._before: dict[int, Any] = {}
        self._forward: Callable[[int], None] = lambda number: None

    def listen(self, forward: Callable[[int], None] = lambda number: None) -> None:
        """Install the signal handlers; does nothing outside the main thread.

        Args:
            forward: Called once with the signal number, to pass it on to child processes.
        """
        if threading.current_thread() is threading.main_thread() and not self._before:
            self.received, self._forward = None, forward
            self._before = {number: signal.signal(number, self._handle) for number in ENDING}

    def stop_listening(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def release(self) -> None:
        """Stop holding; raise for a signal that was received in the meantime.

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
        # the signal may have interrupted print(), which is not reentrant
        os.write(
            sys.__stderr__.fileno() if sys.__stderr__ else 2,
            b"\nhero_pl: saving; press Ctrl-C again to quit without saving\n",
        )
        self._forward(number)
        if not self.held:
            raise Interrupted(number)
