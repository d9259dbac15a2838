"""Training data that is made instead of sampled from the policy: warm-up, and what a privileged teacher is shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from hero_pl.chat.dialect import Dialect
from hero_pl.errors import EnvError
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout import environments
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import Trajectory


class Demonstrations(ABC):
    """Makes trajectories whose actions are labels."""

    @abstractmethod
    def make(self, specs: Sequence[EpisodeSpec], dialect: Dialect, collector: Collector) -> list[Trajectory]:
        """Labeled trajectories for these specs.

        Args:
            specs: Tasks and seeds.
            dialect: Of the policy that learns from them.
            collector: Plays the environment.
        """


class Expert(Protocol):
    """Plays episodes from what the environment says."""

    def reset(self) -> None:
        """Forget the last episode."""

    def act(self, observation: str) -> str:
        """The next canonical action; the first observation is the task."""


class ExpertDemonstrations(Demonstrations):
    """What an expert of the environment does, in the policy's template and dialect.

    The expert plays a task alone, and its actions are then played again as the policy's. An environment that does not
    answer the same to the same task, seed and actions may therefore fail a demonstration.

    Args:
        expert: Anything with ``reset()`` and ``act(observation)``, for example
            ``hero_envs.tau_bench.expert.ScriptedExpert`` for templated TauBench retail tasks and their scripted user.
        max_action_tokens: Longer actions are cut, and counted as such.
    """

    def __init__(self, expert: Expert, max_action_tokens: int = 1024) -> None:
        self.expert, self.max_action_tokens = expert, max_action_tokens

    def make(self, specs: Sequence[EpisodeSpec], dialect: Dialect, collector: Collector) -> list[Trajectory]:
        """One episode per draw; two specs with one seed must name one task."""
        plans = {spec.seed: self._plan(spec, dialect, collector) for spec in specs}
        return collector.collect(specs, _Planned(plans, dialect), Sampling(1.0, self.max_action_tokens))

    def _plan(self, spec: EpisodeSpec, dialect: Dialect, collector: Collector) -> list[str]:
        """The expert's replies to one task."""
        env = collector.env
        self.expert.reset()
        replies: list[str] = []
        over = False
        try:
            answer = environments.begin(env, spec.task_id, spec.seed)
            while not over and len(replies) < collector.limits.max_turns:
                action = self.expert.act(answer.observation)
                replies.append(dialect.parser.reply(action))
                answer = environments.step(env, action)
                over = answer.terminated or answer.truncated
        except EnvError:  # the collector meets it again, and keeps its reason
            pass
        return replies


class _Planned(ScriptedPolicy):
    """Replies as planned for the seed of the conversation."""

    def __init__(self, plans: dict[int, list[str]], dialect: Dialect) -> None:
        super().__init__(template=dialect.template, parser=dialect.parser)
        self.plans, self.max_length = plans, dialect.max_length

    def reply(self, context: str, turn: int, seed: int) -> str:
        """The planned reply, or nothing where the environment went another way."""
        return self.plans[seed][turn] if turn < len(self.plans[seed]) else ""
