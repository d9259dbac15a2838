"""A reflector without diagnoses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hero_pl.reflection.base import Reflector
from hero_pl.types import Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy


class NoReflector(Reflector):
    """Gives no diagnoses, for methods that use only the environment's feedback."""

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """One reflection without diagnoses per trajectory, with status ``ok``."""
        return [Reflection((None,) * len(trajectory.turns), "ok", strict=True) for trajectory in trajectories]
