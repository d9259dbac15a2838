"""Play tasks to the end: the policy acts, the environments answer, everything sampled is kept as ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from hero_pl.errors import ConfigError
from hero_pl.policy.base import Policy
from hero_pl.policy.sampling import Sampling
from hero_pl.rollout import environments
from hero_pl.rollout.slots import Slots, Starts
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import Trajectory


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a rollout.

    Args:
        max_turns: Assistant turns per episode at most.
        num_envs: Episodes in flight at once, each in an environment of its own.
        threads: Threads that step environments; 0 steps them one after the other (best for environments in Python;
            more helps when a user simulator waits for a network).
    """

    max_turns: int = 30
    num_envs: int = 64
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("max_turns", "num_envs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"limits.{name}={getattr(self, name)}: must be at least 1.")


class Collector:
    """Plays episodes of one environment; keeps the environments for the next call.

    Args:
        env_id: Gymnasium id.
        env_args: Arguments of the environment.
        split: Which tasks, if the environment knows splits.
        limits: Bounds.
        seed_tasks: Number of tasks of an environment that names none.
    """

    def __init__(
        self,
        env_id: str,
        env_args: dict[str, Any] | None = None,
        split: str | None = None,
        limits: Limits | None = None,
        seed_tasks: int = 1000,
    ) -> None:
        self.env_id, self.env_args, self.split = env_id, dict(env_args or {}), split
        self.limits = limits or Limits()
        self.starts = Starts()
        self.envs: list[environments.Env] = [environments.make(env_id, split, **self.env_args)]
        self.task_ids = environments.task_ids(self.envs[0], seed_tasks)
        if not self.task_ids:
            raise ConfigError(f"The environment {env_id!r} has no task in split {split!r}.")

    def collect(
        self,
        specs: Sequence[EpisodeSpec],
        policy: Policy,
        sampling: Sampling,
        on_episode: Callable[[Trajectory], None] = lambda trajectory: None,
    ) -> list[Trajectory]:
        """Play every spec to its end.

        Args:
            specs: Episodes to play, ``limits.num_envs`` at a time.
            policy: Loaded; evaluation mode and ``no_grad`` are set here.
            sampling: How actions are drawn.
            on_episode: Called with each episode as soon as it has ended.

        Returns:
            One trajectory per spec, in the order of ``specs``.

        Raises:
            EnvError: The first episode could not be started, or so many in a row.
            EndpointError: A server that the environments ask answers nobody any more, or its spend cap is reached.
        """
        count = min(len(specs), self.limits.num_envs)
        while len(self.envs) < count:
            self.envs.append(environments.make(self.env_id, self.split, **self.env_args))
        pool = ThreadPoolExecutor(self.limits.threads) if self.limits.threads else None
        with policy.sampling(), pool or nullcontext():
            slots = Slots(
                self.env_id,
                self.envs[:count],
                self.starts,
                policy.sampler.open(policy, sampling),
                policy.dialect,
                self.limits.max_turns,
                sampling.max_action_tokens,
                sampling.divisor,
            )
            try:
                return slots.play(specs, on_episode, pool.map if pool else map)
            except BaseException:  # a signal, too, must not wait for servers
                for env in self.envs[:count] if pool else ():
                    environments.cancel(env)
                raise

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()
