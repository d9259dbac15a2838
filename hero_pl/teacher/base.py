"""Interface of teachers, which render the hints that the self-teacher sees when it re-scores an action."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hero_pl.errors import ConfigError
from hero_pl.reflection.none import NoReflector
from hero_pl.scalars import Scalar
from hero_pl.types import Hint, Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.chat.dialect import Dialect
    from hero_pl.policy.base import Policy
    from hero_pl.reflection.base import Reflector
    from hero_pl.rollout.collect import Collector

OF_POCKETS = "hero_pl:pocket/"
"""Templates whose wording only the packaged policies have learned begin with this."""


class Teacher(ABC):
    """Renders hints; independent of losses and weights."""

    needs_group: int = 1
    """Smallest group size with which this teacher can give hints."""
    needs_diagnosis: bool = False
    """Whether a turn without a diagnosis gets no hint."""
    needs_success: bool = False
    """Whether its hints come from successful episodes of the policy, so that there are none before the first."""

    def attach_collector(self, collector: Collector) -> None:  # noqa: B027
        """Called once before training; for teachers that play the environment.

        Args:
            collector: Plays the environments of the training split.
        """

    def check_policy(self, policy: Policy) -> None:  # noqa: B027
        """Called before weights are read; for warnings about hints that nobody has tried on the policy."""

    def check_reflector(self, reflector: Reflector) -> None:
        """Called before weights are read.

        Raises:
            ConfigError: Its diagnoses are not what the hints need.
        """
        if self.needs_diagnosis and isinstance(reflector, NoReflector):
            raise ConfigError(
                f"{type(self).__name__} gives no hint without a diagnosis, and NoReflector gives none: nothing would "
                "be learned. Use another reflector, or FeedbackOnlyTeacher for hints with the observations only."
            )

    def settle(self, trajectories: Sequence[Trajectory], reflections: Sequence[Reflection], policy: Policy) -> None:  # noqa: B027
        """Called with every training batch before :meth:`advise`; for teachers that measure on the first batch.

        Args:
            trajectories: One rollout batch.
            reflections: One per trajectory.
            policy: The policy, with the weights of this step.

        Raises:
            ConfigError: No hint helps, so training would make the policy worse.
        """

    @abstractmethod
    def advise(
        self, trajectories: Sequence[Trajectory], reflections: Sequence[Reflection], dialect: Dialect
    ) -> list[list[Hint | None]]:
        """One hint or ``None`` per turn of each trajectory; turns without a hint are not in the loss.

        Args:
            trajectories: One rollout batch.
            reflections: One per trajectory, with one diagnosis or ``None`` per turn.
            dialect: Template and parser of the policy.
        """

    def metrics(self) -> dict[str, Scalar]:
        """Metrics of the last :meth:`advise`: what was left out or cut."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs to be bit-identical; empty for a teacher without state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore :meth:`state_dict`."""
