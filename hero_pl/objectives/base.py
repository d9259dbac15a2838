"""What an objective is: it prepares one optimizer step from trajectories, and gives the loss of its micro-batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from hero_pl.batch import ReduceSum, TokenizedBatch
from hero_pl.policy.base import Policy
from hero_pl.rollout.collect import Collector
from hero_pl.scalars import Scalar
from hero_pl.types import Reflection, Trajectory

Normalize = Literal[
    "token_mean",
    "token_mean_weighted",
    "seq_mean_token_mean",
    "seq_mean_token_mean_keep_empty",
    "seq_mean_token_sum",
    "seq_mean_token_sum_norm",
    "turn_mean",
    "traj_mean_turn_mean",
]
"""Values of :class:`~hero_pl.losses.normalize.Normalization`, as they are written in a configuration."""


@dataclass(slots=True)
class Step:
    """One optimizer step, laid out before its first backward pass."""

    batch: TokenizedBatch
    metrics: dict[str, Scalar] = field(default_factory=dict)
    """Of this rank, made by :func:`~hero_pl.scalars.total`, ``mean`` or ``largest``."""
    reflections: list[Reflection] | None = None


@dataclass(frozen=True, slots=True)
class LossOutput:
    """Loss of one micro-batch: its share of the step's loss, ready for ``backward``."""

    loss: Tensor
    """Scalar; the shares of all micro-batches and ranks add up to the step's loss."""
    metrics: dict[str, Scalar] = field(default_factory=dict)
    """Of this micro-batch."""
    per_token: Tensor | None = None
    """``(n,)`` detached loss per token, in nats."""
    student_logprobs: Tensor | None = None
    """``(n,)`` detached log-probability of the sampled ids."""
    teacher_logprobs: Tensor | None = None
    """``(n,)`` the teacher's, if there is one."""


class Objective(ABC):
    """One training signal."""

    preparing: ClassVar[str] = "preparing"
    """What :meth:`prepare` does, in a word, for the progress of a run."""

    @property
    def tolerates_stale(self) -> bool:
        """Whether actions of an older policy are corrected for, or do not matter."""
        return False

    def check(self, group_size: int) -> None:  # noqa: B027
        """Refuse settings that cannot work, before any model is loaded.

        Raises:
            ConfigError: With the reason and the cure.
        """

    def attach_collector(self, collector: Collector) -> None:  # noqa: B027
        """Called once before training.

        Args:
            collector: The environments of the training split, for components that play them.
        """

    def redraw(self, trajectories: Sequence[Trajectory], attempt: int) -> list[int]:
        """Groups of a rollout batch that are to be replaced by other tasks before the step (dynamic sampling).

        Args:
            trajectories: One rollout batch.
            attempt: How often this batch has been looked at, from 1.
        """
        return []

    def start(self, policy: Policy) -> None:  # noqa: B027
        """Called once when training starts."""

    @abstractmethod
    def prepare(self, trajectories: Sequence[Trajectory], policy: Policy, reduce_sum: ReduceSum) -> Step:
        """Everything that precedes the first backward pass; gradients are off.

        Args:
            trajectories: One rollout batch.
            policy: With the weights that sampled it.
            reduce_sum: Sums a denominator over ranks; to be called the same number of times on every rank.
        """

    @abstractmethod
    def loss(self, policy: Policy, micro: TokenizedBatch) -> LossOutput:
        """Loss of one micro-batch; gradients flow through the student alone."""

    def after_step(self, policy: Policy) -> None:  # noqa: B027
        """Called after each successful optimizer step."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on bit by bit."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore :meth:`state_dict`."""

    def roll_back(self, state: Mapping[str, Any]) -> None:
        """Undo what training did since ``state`` was saved; what was spent since then stays spent.

        Args:
            state: An earlier :meth:`state_dict` of this run.
        """
        self.load_state_dict(state)
