"""Interface of objectives: prepare one optimizer step from trajectories, and compute the loss of its micro-batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from hero_pl.batch import ReduceSum, TokenizedBatch
from hero_pl.policy.base import Copies, Policy
from hero_pl.rollout.collect import Collector
from hero_pl.scalars import Scalar
from hero_pl.types import Hint, Reflection, Trajectory

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
"""Values of :class:`~hero_pl.losses.normalize.Normalization`, as in a configuration."""


@dataclass(slots=True)
class Step:
    """One optimizer step, prepared before its first backward pass."""

    batch: TokenizedBatch
    metrics: dict[str, Scalar] = field(default_factory=dict)
    """Metrics of this rank, created with :func:`~hero_pl.scalars.total`, ``mean`` or ``largest``."""
    reflections: list[Reflection] | None = None
    hints: list[list[Hint | None]] | None = None
    """Per trajectory and turn: the hint in the teacher's context; ``None`` where the teacher does not score."""


@dataclass(frozen=True, slots=True)
class LossOutput:
    """Loss of one micro-batch: its part of the step's loss, ready for ``backward``."""

    loss: Tensor
    """Scalar; the parts of all micro-batches and ranks add up to the step's loss."""
    metrics: dict[str, Scalar] = field(default_factory=dict)
    """Metrics of this micro-batch."""
    per_token: Tensor | None = None
    """``(n,)`` detached loss per token, in nats."""
    student_logprobs: Tensor | None = None
    """``(n,)`` detached log-probability of the sampled ids."""
    teacher_logprobs: Tensor | None = None
    """``(n,)`` the same for the teacher, if there is one."""


class Objective(ABC):
    """Computes a loss from rollout batches."""

    preparing: ClassVar[str] = "preparing"
    """What :meth:`prepare` does, in a word, for the progress of a run."""
    rewards_alone: bool = False
    """Whether nothing but rewards decides what is learned, so that a run without any signal is a result."""

    @property
    def tolerates_stale(self) -> bool:
        """Whether the loss is valid for actions of an older policy (it has a correction, or needs none)."""
        return False

    @property
    def continues(self) -> int:
        """How many of the latest episodes :meth:`prepare` goes on with under the weights that played them."""
        return 0

    def check(self, group_size: int) -> None:  # noqa: B027
        """Refuse invalid settings, before any model is loaded.

        Raises:
            ConfigError: A setting is invalid; the message has the reason and the remedy.
        """

    def check_policy(self, policy: Policy) -> None:  # noqa: B027
        """Refuse settings that cannot work with the policy, before its weights are read.

        Raises:
            ConfigError: The policy cannot be used; the message says why and what to change.
        """

    def attach_collector(self, collector: Collector) -> None:  # noqa: B027
        """Called once before training.

        Args:
            collector: Plays the environments of the training split, for components that need it.
        """

    @property
    def redraws(self) -> bool:
        """Whether :meth:`redraw` can reject groups."""
        return False

    def redraw(self, trajectories: Sequence[Trajectory], attempt: int) -> list[int]:
        """Groups of a rollout batch to replace by other tasks before the step (dynamic sampling).

        Args:
            trajectories: One rollout batch.
            attempt: Number of this call for the batch, from 1.
        """
        return []

    def check_budget(self, turns: int) -> None:  # noqa: B027
        """Called when training starts; for warnings about the length of the run.

        Args:
            turns: Training turns of the run; 0 for no limit.
        """

    @property
    def copies(self) -> Copies:
        """Frozen copies of the policy that it uses."""
        return {}

    def start(self, policy: Policy) -> None:
        """Called once when training starts; keeps the copies."""
        policy.keep_all(self.copies)

    @abstractmethod
    def prepare(self, trajectories: Sequence[Trajectory], policy: Policy, reduce_sum: ReduceSum) -> Step:
        """Do everything before the first backward pass, without gradients.

        Args:
            trajectories: One rollout batch.
            policy: The policy, with the weights that sampled the batch.
            reduce_sum: Sums a denominator over ranks; call it the same number of times on every rank.
        """

    @abstractmethod
    def loss(self, policy: Policy, micro: TokenizedBatch) -> LossOutput:
        """Loss of one micro-batch; gradients flow through the student only."""

    def after_step(self, policy: Policy) -> None:  # noqa: B027
        """Called after each successful optimizer step."""

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs to be bit-identical."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore :meth:`state_dict`."""

    def roll_back(self, state: Mapping[str, Any]) -> None:
        """Restore the effect of training at the time ``state`` was saved; counters of costs are not restored.

        Args:
            state: An earlier :meth:`state_dict` of this run.
        """
        self.load_state_dict(state)
