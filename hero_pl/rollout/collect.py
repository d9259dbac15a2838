"""Play tasks to the end: the policy acts, the environments answer, everything sampled is kept as ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from hero_pl.chat.history import History
from hero_pl.errors import ConfigError, EnvError
from hero_pl.policy.base import Policy, SampledAction, Sampling
from hero_pl.rollout import environments
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import Role, StopReason, Trajectory, Turn

UNREADABLE = "Your reply could not be read as an action: {reason}"


GIVE_UP = 8
"""Episodes in a row that could not be started; then the environment, or its user simulator, is taken for dead."""


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


@dataclass(slots=True)
class _Episode:
    """An episode in flight."""

    spec: EpisodeSpec
    env: environments.Env
    system_prompt: str
    tools: tuple[Any, ...]
    first_observation: str
    history: History | None
    """``None`` if the episode could not be started."""
    turns: list[Turn] = field(default_factory=list)
    reward: float = 0.0
    stop: StopReason | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The present decision context."""
        return self.history.prompt_ids if self.history else ()


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
        self._failed_starts: int | None = None
        """In a row; ``None`` before the first success."""
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
        """Play every draw to its end.

        Args:
            specs: Episodes to play, ``limits.num_envs`` at a time.
            policy: Loaded; evaluation mode and ``no_grad`` are set here.
            sampling: How actions are drawn.
            on_episode: Called with each episode as soon as it has ended.

        Returns:
            One trajectory per spec, in the order of ``specs``.

        Raises:
            EnvError: The first episode could not be started, or so many in a row.
        """
        trajectories: list[Trajectory] = []
        with policy.sampling():
            for first in range(0, len(specs), self.limits.num_envs):
                wave = specs[first : first + self.limits.num_envs]
                trajectories += self._play(wave, policy, sampling, on_episode)
        return trajectories

    def _play(
        self,
        wave: Sequence[EpisodeSpec],
        policy: Policy,
        sampling: Sampling,
        on_episode: Callable[[Trajectory], None],
    ) -> list[Trajectory]:
        while len(self.envs) < len(wave):
            self.envs.append(environments.make(self.env_id, self.split, **self.env_args))
        episodes = [self._begin_or_give_up(spec, env, policy) for spec, env in zip(wave, self.envs, strict=False)]
        session = policy.sampler.open(policy, sampling, [spec.seed for spec in wave])
        room = policy.max_length - sampling.max_action_tokens
        finished: dict[int, Trajectory] = {}
        while True:
            for i, episode in enumerate(episodes):
                if episode.stop is None and len(episode.prompt_ids) > room:
                    episode.stop = StopReason.CONTEXT_FULL
                if episode.stop is not None and i not in finished:
                    finished[i] = self._finish(episode, policy, sampling.temperature or 1.0)
                    on_episode(finished[i])
            active = [i for i, episode in enumerate(episodes) if episode.stop is None]
            if not active:
                return [finished[i] for i in range(len(episodes))]
            actions = session.act(active, [episodes[i].prompt_ids for i in active])
            playing = [episodes[i] for i in active]
            if self.limits.threads:
                with ThreadPoolExecutor(self.limits.threads) as threads:
                    list(threads.map(self._step, playing, actions, [policy] * len(playing)))
            else:
                for episode, action in zip(playing, actions, strict=True):
                    self._step(episode, action, policy)

    def _begin_or_give_up(self, spec: EpisodeSpec, env: environments.Env, policy: Policy) -> _Episode:
        """An episode that cannot be started counts as broken; an environment that starts none ends the run."""
        try:
            episode = self._begin(spec, env, policy)
        except EnvError as error:
            if self._failed_starts is None or self._failed_starts + 1 == GIVE_UP:
                raise
            self._failed_starts += 1
            stop, info = StopReason.ENV_ERROR, {"error": str(error)}
            return _Episode(spec, env, "", (), "", None, stop=stop, info=info)
        self._failed_starts = 0
        return episode

    def _begin(self, spec: EpisodeSpec, env: environments.Env, policy: Policy) -> _Episode:
        observation, info = environments.begin(env, spec.task_id, spec.seed)
        tools = tuple(info.get("tools", ()))
        system_prompt, described = policy.parser.describe(str(info.get("system_prompt", "")), tools)
        history = History(policy.template, system_prompt, observation, info.get("role", "user"), described)
        kept = environments.json_only({key: info[key] for key in environments.KEPT if key in info})
        return _Episode(spec, env, str(info.get("system_prompt", "")), tools, observation, history, info=kept)

    def _step(self, episode: _Episode, sampled: SampledAction, policy: Policy) -> None:
        """Let the environment answer one sampled reply and append the turn."""
        text = policy.template.encoder.decode(sampled.ids)
        parsed = policy.parser.parse(text, policy.template.opens_reasoning)
        role: Role = "user"
        if parsed.malformed is not None:
            observation = UNREADABLE.format(reason=parsed.malformed)
        else:
            observation, role = self._answer(episode, parsed.action)
        number = len(episode.turns) + 1
        episode.turns.append(
            Turn(
                number=number,
                prompt_ids=episode.prompt_ids,
                action_ids=sampled.ids,
                action_logprobs=sampled.logprobs,
                text=text,
                action=parsed.action,
                observation=observation,
                role=role,
                finish_reason=sampled.finish_reason,
                malformed=parsed.malformed,
                further_calls=parsed.further_calls,
            )
        )
        if episode.stop is None and number >= self.limits.max_turns:
            episode.stop = StopReason.MAX_TURNS
        if episode.stop is None and episode.history is not None:
            episode.history.append(sampled.ids, observation, role)

    @staticmethod
    def _answer(episode: _Episode, action: str) -> tuple[str, Role]:
        try:
            observation, reward, terminated, truncated, info = episode.env.step(action)
        except Exception as error:
            # An environment must answer mistakes with an observation. One that raises must not stop the run: the
            # episode ends, and the reason is in its record and in the counter `rollout/env_error`.
            episode.stop = StopReason.ENV_ERROR
            episode.info["error"] = repr(error)
            return "", "user"
        episode.reward += float(reward)
        if terminated or truncated:
            episode.stop = StopReason.TERMINATED if terminated else StopReason.TRUNCATED
            episode.info |= environments.json_only(info)
        return str(observation), info.get("role", "user")

    def _finish(self, episode: _Episode, policy: Policy, temperature: float) -> Trajectory:
        assert episode.stop is not None
        if episode.history is not None and episode.history.rewritten_tokens:
            episode.info["rewritten_tokens"] = episode.history.rewritten_tokens
        return Trajectory(
            task_id=episode.spec.task_id,
            env_id=self.env_id,
            seed=episode.spec.seed,
            group=episode.spec.group,
            system_prompt=episode.system_prompt,
            tools=episode.tools,
            first_observation=episode.first_observation,
            turns=tuple(episode.turns),
            reward=episode.reward,
            stop_reason=episode.stop,
            policy_version=policy.version,
            temperature=temperature,
            info=episode.info,
        )

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()
