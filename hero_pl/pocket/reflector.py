"""Rule labels for the pocket shop: the reflector that reads pages instead of asking a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hero_pl.pocket.rules import Request, call, judge
from hero_pl.reflection.base import Reflector
from hero_pl.types import Diagnosis, Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy


class ShopRules(Reflector):
    """Diagnoses pocket-shop turns by rule from request, pages and answers; never from hidden state.

    Args:
        targets: Add the corrected action to turns that were not right.
    """

    def __init__(self, targets: bool = True) -> None:
        self.targets = targets

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """See :meth:`Reflector.reflect`."""
        return [self._one(trajectory) for trajectory in trajectories]

    def _one(self, trajectory: Trajectory) -> Reflection:
        request = Request.read(trajectory.first_observation)
        if request is None:
            return Reflection((None,) * len(trajectory.turns), "rejected", issues=(("not_a_pocket_shop", 0),))
        diagnoses: list[Diagnosis | None] = []
        page = trajectory.first_observation
        for turn in trajectory.turns:
            verdict = judge(request, page, turn.action or turn.text, turn.observation)
            target = call(verdict.slot, verdict.right) if self.targets and verdict.kind != "right" else None
            diagnoses.append(Diagnosis(verdict.text, "high", target))
            page = page if turn.malformed else turn.observation
        return Reflection(tuple(diagnoses), "ok", True)
