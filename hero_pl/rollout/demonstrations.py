"""Labeled trajectories that are not sampled from the policy: for warm-up and for a privileged teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Protocol

from hero_pl.chat.dialect import Dialect
from hero_pl.errors import ConfigError, EnvError
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.pool import Reset, Step
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import Trajectory


class Demonstrations(ABC):
    """Creates trajectories whose actions are labels."""

    @abstractmethod
    def make(self, specs: Sequence[EpisodeSpec], dialect: Dialect, collector: Collector) -> list[Trajectory]:
        """Labeled trajectories for these specs.

        Args:
            specs: Tasks and seeds.
            dialect: Dialect of the policy that is trained on them.
            collector: Plays the environment.
        """


def stranger(source: object, env_id: str) -> ConfigError:
    """The error of a source of demonstrations that does not know the environment."""
    return ConfigError(
        f"{type(source).__name__} cannot play data.env={env_id!r}: its episodes do not begin like those that it knows. "
        "Set data.demonstrations to a source for this environment, or data.env to its environment."
    )


class Expert(Protocol):
    """Chooses actions from observations."""

    def reset(self) -> None:
        """Start a new episode."""

    def act(self, observation: str) -> str:
        """The next canonical action; the first observation is the task."""


class PlannedDemonstrations(Demonstrations):
    """Plays each task once to choose the replies, which are then replayed as the policy's.

    The replay repeats the plan only if the environment gives the same answers for the same task, seed and actions. With
    other answers the replies may no longer solve the task, and the demonstration ends without success.

    Args:
        max_action_tokens: Maximum number of tokens per action; longer ones are cut, and counted.
    """

    def __init__(self, max_action_tokens: int = 1024) -> None:
        self.max_action_tokens = max_action_tokens

    @abstractmethod
    def plan(self, spec: EpisodeSpec, collector: Collector) -> Iterator[str]:
        """The canonical actions for one task, one by one; plays with ``collector.ask``."""

    def make(self, specs: Sequence[EpisodeSpec], dialect: Dialect, collector: Collector) -> list[Trajectory]:
        """One episode per spec; two specs with the same seed must have the same task."""
        plans = {spec.seed: self._replies(spec, dialect, collector) for spec in specs}
        return collector.collect(specs, _Planned(plans, dialect), Sampling(1.0, self.max_action_tokens))

    def _replies(self, spec: EpisodeSpec, dialect: Dialect, collector: Collector) -> list[str]:
        replies: list[str] = []
        with suppress(EnvError):  # the collector gets the same error, and records it
            for action in islice(self.plan(spec, collector), collector.limits.max_turns):
                replies.append(dialect.parser.reply(action))
        return replies


class ExpertDemonstrations(PlannedDemonstrations):
    """Episodes of an expert for the environment, in the policy's template and dialect.

    Args:
        expert: Anything with ``reset()`` and ``act(observation)``, for example
            ``hero_envs.tau_bench.expert.ScriptedExpert`` for templated TauBench retail tasks and their scripted user.
        max_action_tokens: Maximum number of tokens per action; longer ones are cut, and counted.
    """

    def __init__(self, expert: Expert, max_action_tokens: int = 1024) -> None:
        super().__init__(max_action_tokens)
        self.expert = expert

    def plan(self, spec: EpisodeSpec, collector: Collector) -> Iterator[str]:
        """The expert's actions for one task."""
        self.expert.reset()
        answer = collector.ask(Reset(spec.task_id, spec.seed))
        while not (answer.terminated or answer.truncated):
            action = self.expert.act(answer.observation)
            yield action
            answer = collector.ask(Step(action))


class _Planned(ScriptedPolicy):
    """Replies from the plan for the seed of the conversation."""

    def __init__(self, plans: dict[int, list[str]], dialect: Dialect) -> None:
        super().__init__(template=dialect.template, parser=dialect.parser)
        self.plans, self.max_length = plans, dialect.max_length

    def reply(self, context: str, turn: int, seed: int) -> str:
        """The planned reply, or an empty one if the episode is longer than its plan."""
        return self.plans[seed][turn] if turn < len(self.plans[seed]) else ""
