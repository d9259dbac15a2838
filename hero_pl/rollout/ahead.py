"""Play the episodes of the next training step while the trainer learns from those of this one."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

from hero_pl.errors import ConfigError, PolicyError
from hero_pl.policy.sampling import Sampler, in_process
from hero_pl.rollout.health import Health
from hero_pl.types import Trajectory

AT_END_S = 10.0
"""Longest wait, in seconds, for episodes that are not needed because the run ends."""
Play = Callable[[Callable[[Trajectory], None]], list[Trajectory]]
"""Plays episodes to their end, calling its argument with each one that has ended."""


def check_ahead(sampler: Sampler, redraws: bool) -> None:
    """Refuse to play ahead where it is not possible.

    Args:
        sampler: Sampler of the policy.
        redraws: Whether the objective rejects groups.

    Raises:
        ConfigError: The sampler runs the network of the policy, or the objective rejects groups.
    """
    if in_process(sampler):
        raise ConfigError(
            "data.ahead=1: the policy samples in this process, which cannot learn at the same time. Set "
            "model.policy.init_args.sampler: ServerSampler, or data.ahead: 0."
        )
    if redraws:
        raise ConfigError(
            "data.ahead=1: the objective draws rejected groups again, with newer weights than the rest of the batch. "
            "Set its zero_variance: mask, or data.ahead: 0."
        )


class _DroppedError(Exception):
    """The episodes are not needed any more."""


class PlayAhead:
    """Plays one batch of episodes in a thread of its own; at most one at a time."""

    def __init__(self) -> None:
        self.health: dict[str, Any] | None = None
        """State of the environments before the episodes: a resumed run plays those again."""
        self._thread: threading.Thread | None = None
        self._dropped = threading.Event()
        self._played: list[Trajectory] = []
        self._error: BaseException | None = None

    def start(self, play: Play, health: dict[str, Any]) -> None:
        """Play a batch.

        Args:
            play: Plays it; runs in the thread.
            health: State of the environments now.
        """
        self.health, self._error = health, None
        self._dropped.clear()
        self._thread = threading.Thread(target=self._run, args=(play,), name="hero_pl ahead", daemon=True)
        self._thread.start()

    def _run(self, play: Play) -> None:
        def ended(trajectory: Trajectory) -> None:
            if self._dropped.is_set():
                raise _DroppedError

        try:
            self._played = play(ended)
        except BaseException as error:  # raised again in the thread that waits
            self._error = error

    def wait(self) -> None:
        """Wait until nothing is played."""
        if self._thread is not None:
            self._thread.join()

    def take(self, health: Health) -> list[Trajectory] | None:
        """Wait for the batch; ``None`` if there is none or the sampler has lost it. Other errors are raised here.

        Args:
            health: Of the environments; the episodes of a lost batch are played again and must not count twice.
        """
        if self._thread is None:
            return None
        self._thread.join()
        if isinstance(self._error, PolicyError):  # servers are checked in the thread with the weights only
            self.forget(health)
            warnings.warn(f"The episodes that were played ahead are lost and played again: {self._error}", stacklevel=2)
            return None
        self._thread = self.health = None
        if self._error is not None:
            raise self._error
        return self._played

    def drop(self, limit_s: float | None = None) -> None:
        """Wait until the next episode of the batch has ended, then play no more of it.

        Args:
            limit_s: Longest wait in seconds, for the end of a run; ``None`` for no limit.
        """
        self._dropped.set()
        if self._thread is not None:
            self._thread.join(limit_s)
        self._thread = self.health = None

    def forget(self, health: Health) -> None:
        """Drop the batch as if none of it had been played.

        Args:
            health: Of the environments, which gets its state before the batch.
        """
        before = self.health
        self.drop()
        if before is not None:
            health.load_state_dict(before)
