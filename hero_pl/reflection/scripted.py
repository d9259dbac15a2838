"""A reflector whose answers are fixed in advance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hero_pl.errors import ReflectionError
from hero_pl.reflection.base import Reflector
from hero_pl.types import Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy


class ScriptedReflector(Reflector):
    """Returns given reflections one after the other, for tests and demonstrations.

    Args:
        reflections: One per trajectory that will be asked about, in order.
    """

    def __init__(self, reflections: Sequence[Reflection]) -> None:
        self.reflections = tuple(reflections)
        self._used = 0

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """Return the next reflections of the script.

        Raises:
            ReflectionError: If the script is over, or written for an episode of another length.
        """
        given = self.reflections[self._used : self._used + len(trajectories)]
        if len(given) < len(trajectories):
            raise ReflectionError(
                f"ScriptedReflector holds {len(self.reflections)} reflections, {self._used} are used, and "
                f"{len(trajectories)} more were asked for. Write one per trajectory."
            )
        for trajectory, reflection in zip(trajectories, given, strict=True):
            if len(reflection.diagnoses) != len(trajectory.turns):
                raise ReflectionError(
                    f"Task {trajectory.task_id} has {len(trajectory.turns)} turns, its scripted reflection "
                    f"{len(reflection.diagnoses)} entries. Write one entry (or None) per turn."
                )
        self._used += len(given)
        return list(given)

    def state_dict(self) -> dict[str, Any]:
        """How far the script has been read."""
        return {"used": self._used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on reading where the saved run stopped."""
        self._used = int(state["used"])
