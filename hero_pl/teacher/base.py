"""What a teacher is: it decides what the self-teacher sees before it re-scores the student's action."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hero_pl.scalars import Scalar
from hero_pl.types import Hint, Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.chat.dialect import Dialect
    from hero_pl.policy.base import Policy
    from hero_pl.rollout.collect import Collector


class Teacher(ABC):
    """Renders privileged context; knows nothing of losses or weights."""

    needs_group: int = 1
    """Smallest group size that gives this teacher anything to show."""
    needs_diagnosis: bool = False
    """A turn without a diagnosis gets no hint."""

    def attach_collector(self, collector: Collector) -> None:  # noqa: B027
        """Called once before training; for teachers that play the environment.

        Args:
            collector: The environments of the training split.
        """

    def settle(self, trajectories: Sequence[Trajectory], reflections: Sequence[Reflection], policy: Policy) -> None:  # noqa: B027
        """Called with every training batch before :meth:`advise`; for what is decided by measuring the first one.

        Args:
            trajectories: One rollout batch.
            reflections: One per trajectory.
            policy: With the weights of this step.

        Raises:
            ConfigError: Training would do harm.
        """

    @abstractmethod
    def advise(
        self, trajectories: Sequence[Trajectory], reflections: Sequence[Reflection], dialect: Dialect
    ) -> list[list[Hint | None]]:
        """One hint or ``None`` per turn of each trajectory; turns without a hint leave the loss.

        Args:
            trajectories: One rollout batch.
            reflections: One per trajectory, with one diagnosis or ``None`` per turn.
            dialect: How the policy reads and writes.
        """

    def metrics(self) -> dict[str, Scalar]:
        """What the last :meth:`advise` left out or cut, by name."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on bit by bit; empty unless the teacher keeps state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore :meth:`state_dict`."""
