"""A reflector with predefined answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hero_pl.errors import ReflectionError
from hero_pl.reflection.base import Reflector
from hero_pl.types import Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy


class ScriptedReflector(Reflector):
    """Returns the given reflections in order, for tests and examples.

    Args:
        reflections: One per trajectory, in order.
    """

    def __init__(self, reflections: Sequence[Reflection]) -> None:
        self.reflections = tuple(reflections)
        self._used = 0

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """Return the next reflections of the script.

        Raises:
            ReflectionError: There are not enough reflections, or one has another number of turns.
        """
        given = self.reflections[self._used : self._used + len(trajectories)]
        if len(given) < len(trajectories):
            raise ReflectionError(
                f"ScriptedReflector has {len(self.reflections)} reflections, {self._used} are used, and "
                f"{len(trajectories)} more are needed. Give one per trajectory."
            )
        for trajectory, reflection in zip(trajectories, given, strict=True):
            if len(reflection.diagnoses) != len(trajectory.turns):
                raise ReflectionError(
                    f"Task {trajectory.task_id} has {len(trajectory.turns)} turns, its scripted reflection "
                    f"{len(reflection.diagnoses)} entries. Give one entry (or None) per turn."
                )
        self._used += len(given)
        return list(given)

    def state_dict(self) -> dict[str, Any]:
        """Number of used reflections."""
        return {"used": self._used}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._used = int(state["used"])
