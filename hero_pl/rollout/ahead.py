"""Play the episodes of the next training step while the trainer learns from those of this one."""

from __future__ import annotations

import threading
from collections.abc import Callable

from hero_pl.errors import ConfigError
from hero_pl.types import Trajectory

Play = Callable[[Callable[[Trajectory], None]], list[Trajectory]]
"""Plays episodes to their end, calling its argument with each one that has ended."""


def check_ahead(in_process: bool, redraws: bool) -> None:
    """Refuse to play ahead where it is not possible.

    Args:
        in_process: Whether the sampler runs the network of the policy.
        redraws: Whether the objective rejects groups.

    Raises:
        ConfigError: Either is the case.
    """
    if in_process:
        raise ConfigError(
            "data.ahead=1: the policy samples in this process, which cannot learn at the same time. Set "
            "model.policy.init_args.sampler: ServerSampler, or data.ahead: 0."
        )
    if redraws:
        raise ConfigError(
            "data.ahead=1: the objective draws rejected groups again, with newer weights than the rest of the batch. "
            "Set its zero_variance: mask, or data.ahead: 0."
        )


class _CancelledError(Exception):
    """The episodes are not needed any more."""


class AheadBatch:
    """Episodes that are played in a thread of their own.

    Args:
        play: Plays them; runs in the thread.
    """

    def __init__(self, play: Play) -> None:
        self._play, self._cancelled = play, threading.Event()
        self._played: list[Trajectory] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hero_pl ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        def ended(trajectory: Trajectory) -> None:
            if self._cancelled.is_set():
                raise _CancelledError

        try:
            self._played = self._play(ended)
        except BaseException as error:  # raised again in the thread that waits
            self._error = error

    def join(self) -> None:
        """Wait until all episodes have ended."""
        self._thread.join()

    def wait(self) -> list[Trajectory]:
        """Wait until all episodes have ended, and return them; an error of the thread is raised here."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._played

    def cancel(self) -> None:
        """Drop the episodes: wait until the next of them has ended, then play no more."""
        self._cancelled.set()
        self.join()
