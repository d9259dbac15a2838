"""Rule labels for the pocket retail desk: the reflector that reads the conversation instead of asking a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hero_pl.pocket.retail_rules import Desk, judge, read_call
from hero_pl.reflection.base import Reflector
from hero_pl.types import Diagnosis, Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy


class RetailRules(Reflector):
    """Diagnoses turns of the pocket retail desk by rule from request, tool results and policy; never from hidden state.

    Args:
        targets: Add the corrected action to turns that were not right.
    """

    def __init__(self, targets: bool = True) -> None:
        self.targets = targets

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """See :meth:`Reflector.reflect`."""
        return [self._one(trajectory) for trajectory in trajectories]

    def _one(self, trajectory: Trajectory) -> Reflection:
        if Desk.open(trajectory.first_observation) is None:
            return Reflection((None,) * len(trajectory.turns), "rejected", issues=(("not_a_pocket_retail_task", 0),))
        diagnoses = []
        for desk, turn in zip(desks(trajectory), trajectory.turns, strict=True):
            text, target = judge(desk, read_call(turn.action), turn.observation)
            diagnoses.append(Diagnosis(text, "high", target if self.targets else None))
        return Reflection(tuple(diagnoses), "ok", True)


def desks(trajectory: Trajectory) -> list[Desk]:
    """What was known before each turn of a retail trajectory."""
    desk = Desk.open(trajectory.first_observation)
    assert desk is not None, "checked by the caller"
    found = []
    for turn in trajectory.turns:
        found.append(desk)
        desk = desk.after(read_call(turn.action), turn.observation)
    return found
