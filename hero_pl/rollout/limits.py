"""The bounds of a rollout: how long, how many at once, how often again, and how much may break."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hero_pl.errors import ConfigError
from hero_pl.rollout.answers import MAX_CHARS


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a rollout.

    Args:
        max_turns: Assistant turns per episode at most.
        num_envs: Episodes in flight at once, each in an environment of its own.
        threads: Threads that step environments; 0 steps them one after the other (best for environments in Python;
            more helps when a user simulator waits for a network).
        workers: Processes that host the environments; 0 hosts them in this process. A worker that hangs or dies is
            replaced, and its episodes are played again.
        step_timeout_s: Seconds that a step may take. In this process Python code and waiting can be interrupted, code
            in C cannot; a worker is killed.
        reset_timeout_s: Seconds that a reset may take; default: ``step_timeout_s``.
        retries: Times that a broken episode is played again with its own seed, before it counts as broken.
        broken_share: The run ends if more than this share of the latest episodes is broken, or of the tasks in
            quarantine. A task is put there, and not drawn again, if it cannot be started, or if all its episodes in two
            batches in a row were broken.
        max_observation_chars: Longer observations are cut.
    """

    max_turns: int = 30
    num_envs: int = 64
    threads: int = 0
    workers: int = 0
    step_timeout_s: float = 300.0
    reset_timeout_s: float | None = None
    retries: int = 1
    broken_share: float = 0.5
    max_observation_chars: int = MAX_CHARS

    def __post_init__(self) -> None:
        for name, least in (
            ("max_turns", 1),
            ("num_envs", 1),
            ("threads", 0),
            ("workers", 0),
            ("retries", 0),
            ("max_observation_chars", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"limits.{name}={getattr(self, name)}: must be at least {least}.")
        for name in ("step_timeout_s", "reset_timeout_s"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise ConfigError(f"limits.{name}={value}: expected a positive number of seconds.")
        if not 0.0 <= self.broken_share <= 1.0:
            raise ConfigError(f"limits.broken_share={self.broken_share}: must lie in [0, 1].")
        if self.threads and self.workers:
            raise ConfigError(
                f"limits.threads={self.threads}, limits.workers={self.workers}: threads are for environments in this "
                "process. Set one of them to 0."
            )
