"""Rule-based reflector for the pocket retail desk."""

from __future__ import annotations

from hero_pl.pocket.retail.rules import Clerk, Desk, read_call
from hero_pl.pocket.shop.reflector import RuleReflector
from hero_pl.pocket.situation import Situation
from hero_pl.types import Trajectory


class RetailRules(RuleReflector):
    """Diagnoses turns of the pocket retail desk by rule, from request, tool results and policy, without hidden state.

    Args:
        targets: Whether to add the corrected action to the diagnosis of an error.
    """

    stranger = "not_a_pocket_retail_task"

    def open(self, first_observation: str) -> Situation | None:
        """See :meth:`RuleReflector.open`."""
        return Clerk.open(first_observation)


def desks(trajectory: Trajectory) -> list[Desk]:
    """The state before each turn of a retail trajectory."""
    desk = Desk.open(trajectory.first_observation)
    assert desk is not None, "checked by the caller"
    states = []
    for turn in trajectory.turns:
        states.append(desk)
        desk = desk.after(read_call(turn.action), turn.observation)
    return states
