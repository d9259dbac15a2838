"""Play episodes with a policy in environments; everything sampled is stored as ids."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from hero_pl.errors import ConfigError, EnvError
from hero_pl.policy.base import Policy
from hero_pl.policy.sampling import Sampling, in_process
from hero_pl.rollout import environments
from hero_pl.rollout.answers import Answer
from hero_pl.rollout.health import Health
from hero_pl.rollout.limits import Limits
from hero_pl.rollout.pool import EnvPool, Fault, LocalPool, Recipe, Reset, Step, answer_in_time, create, discard
from hero_pl.rollout.slots import Slots
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.rollout.workers import WorkerPool
from hero_pl.types import StopReason, Trajectory


def pool_of(limits: Limits) -> EnvPool:
    """The pool of environments for the limits."""
    return WorkerPool(limits) if limits.workers else LocalPool(limits)


class Collector:
    """Plays episodes of one environment id; reuses the environments in the next call.

    Args:
        env_id: Gymnasium id.
        env_args: Arguments of the environment.
        split: Split of the tasks, if the environment has splits.
        limits: Limits of the rollout.
        seed_tasks: Number of tasks of an environment that has no list of tasks.
        pool: Pool of the environments, if it is shared.
    """

    def __init__(
        self,
        env_id: str,
        env_args: dict[str, Any] | None = None,
        split: str | None = None,
        limits: Limits | None = None,
        seed_tasks: int = 1000,
        pool: EnvPool | None = None,
    ) -> None:
        self.env_id, self.env_args, self.split = env_id, dict(env_args or {}), split
        self.limits = limits or Limits()
        self.recipe = Recipe.of(env_id, split, self.env_args)
        self.env = self.recipe.make()
        """Used for the list of tasks and by experts; episodes are played in others."""
        environments.check_text(self.env)
        self.task_ids = environments.task_ids(self.env, seed_tasks)
        if not self.task_ids:
            raise ConfigError(f"The environment {env_id!r} has no task in split {split!r}.")
        self.pool = pool or pool_of(self.limits)
        self.health = Health(env_id, len(self.task_ids), self.limits.broken_share)
        self._playing = threading.Lock()
        """Held by the thread whose episodes are played: an expert may be asked while others are played ahead."""

    def collect(
        self,
        specs: Sequence[EpisodeSpec],
        policy: Policy,
        sampling: Sampling,
        on_episode: Callable[[Trajectory], None] = lambda trajectory: None,
    ) -> list[Trajectory]:
        """Play every spec to its end; tasks in quarantine count as broken without being played.

        Args:
            specs: Episodes to play, ``limits.num_envs`` at a time.
            policy: A policy with loaded weights; evaluation mode and ``no_grad`` are set here.
            sampling: Sampling settings.
            on_episode: Called with each episode when it has ended.

        Returns:
            One trajectory per spec, in the order of ``specs``.

        Raises:
            EnvError: Too many episodes or tasks are broken (:class:`~hero_pl.rollout.health.Health`).
            EndpointError: A server that the environments use no longer answers, or its spend cap is reached.
        """

        def ended(trajectory: Trajectory) -> None:
            on_episode(trajectory)
            self.health.ended(trajectory)

        known = dict(self.health.quarantined)
        unplayed = {
            i: self._unplayed(spec, known[spec.task_id]) for i, spec in enumerate(specs) if spec.task_id in known
        }
        for trajectory in unplayed.values():
            on_episode(trajectory)
        played = [spec for spec in specs if spec.task_id not in known]
        # a sampler with servers may play in another thread, where the mode of the policy must not change
        with self._playing, policy.sampling() if in_process(policy.sampler) else nullcontext():
            slots = Slots(
                self.env_id,
                self.pool,
                self.pool.seats(self.recipe, min(len(played), self.limits.num_envs)),
                policy.sampler.open(policy, sampling),
                policy.dialect,
                sampling.max_action_tokens,
                sampling.divisor,
                ended,
            )
            played_now = slots.play(played)
        self.health.judge(played_now)
        rest = iter(played_now)
        return [unplayed[i] if i in unplayed else next(rest) for i in range(len(specs))]

    def ask(self, call: Reset | Step) -> Answer:
        """The answer of :attr:`env` to an expert, within the time limits of an episode.

        Raises:
            EnvError: It failed, or took too long; the next call gets a new environment.
            EndpointError: A server that it asks answers nobody any more, or its spend cap is reached.
        """
        found = answer_in_time(self.env, call, self.limits)
        if isinstance(found, Answer):
            return found
        discard(self.env, found, self.limits)
        made = create(self.recipe)
        if not isinstance(made, Fault):
            self.env = made
        raise EnvError(found.error)

    def _unplayed(self, spec: EpisodeSpec, why: str) -> Trajectory:
        return Trajectory(
            task_id=spec.task_id,
            env_id=self.env_id,
            seed=spec.seed,
            group=spec.group,
            system_prompt="",
            tools=(),
            first_observation="",
            turns=(),
            reward=0.0,
            stop_reason=StopReason.ENV_ERROR,
            info={"error": f"not played, because the task always breaks: {why}"},
        )

    def close(self) -> None:
        """Close the environments."""
        self.env.close()
        self.pool.close()
