"""The limits of a rollout: length, concurrency, retries, and the share of broken episodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hero_pl.errors import ConfigError
from hero_pl.rollout.answers import MAX_CHARS


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a rollout.

    Args:
        max_turns: Maximum number of assistant turns per episode.
        num_envs: Number of concurrent episodes, each with its own environment.
        threads: Number of threads that step environments; 0 steps them one after the other (best for environments in
            Python; more helps when a user simulator waits for a network).
        workers: Number of processes that run the environments; 0 runs them in this process. A worker that hangs or dies
            is replaced, and its episodes are restarted.
        transport: Where the workers run: ``process`` on this machine, ``ray`` on the machines of a Ray cluster
            (``RAY_ADDRESS``; needs the extra ``ray``), one per CPU of it.
        step_timeout_s: Maximum number of seconds for a step. In this process, Python code and waiting can be
            interrupted, C code cannot; a worker is killed.
        reset_timeout_s: Maximum number of seconds for a reset; default: ``step_timeout_s``.
        retries: Number of times that a broken episode is restarted with its seed, before it counts as broken.
        broken_share: The run ends if more than this share of the latest episodes is broken, or if more than this share
            of the tasks is in quarantine. A task in quarantine is not drawn again. A task is put there if it cannot be
            started, or if all its episodes in two consecutive batches were broken.
        max_observation_chars: Maximum length of an observation; longer ones are cut.
    """

    max_turns: int = 30
    num_envs: int = 64
    threads: int = 0
    workers: int = 0
    transport: Literal["process", "ray"] = "process"
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
            if getattr(self, name) is None or getattr(self, name) < least:
                raise ConfigError(f"limits.{name}={getattr(self, name)}: expected at least {least}.")
        for name in ("step_timeout_s", "reset_timeout_s"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise ConfigError(f"limits.{name}={value}: expected a positive number of seconds.")
        if not 0.0 <= self.broken_share <= 1.0:
            raise ConfigError(f"limits.broken_share={self.broken_share}: expected a number in [0, 1].")
        if self.transport not in ("process", "ray") or (self.transport == "ray" and not self.workers):
            raise ConfigError(
                f"limits.transport={self.transport}, limits.workers={self.workers}: expected process, or ray with at "
                "least 1 worker."
            )
        if self.threads and self.workers:
            raise ConfigError(
                f"limits.threads={self.threads}, limits.workers={self.workers}: threads are for environments in this "
                "process. Set one of them to 0."
            )
