"""Reflectors for TextWorld: rules that read what the agent saw, and an oracle that reads the solution of the game."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hero_pl.pocket.shop.reflector import RuleReflector
from hero_pl.pocket.situation import Situation
from hero_pl.pocket.textworld.rules import Player
from hero_pl.reflection.base import Reflector
from hero_pl.types import Diagnosis, Reflection, Trajectory, Turn

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy


class TextWorldRules(RuleReflector):
    """Diagnoses turns by rule from the objective and the replies of the game, without hidden state.

    Args:
        targets: Whether to add the corrected command where it can be inferred from what was visible.
    """

    stranger = "not_a_textworld_game"

    def open(self, first_observation: str) -> Situation | None:
        """See :meth:`RuleReflector.open`."""
        return Player.open(first_observation)

    def diagnosis(self, text: str, target: Mapping[str, Any] | None) -> Diagnosis:
        """See :meth:`RuleReflector.diagnosis`; an error is a failure even if its correction is not known."""
        return Diagnosis(text, "high", target, was_failure=target is None and not text.startswith("right:"))


class TextWorldOracle(Reflector):
    """Diagnoses turns by the shortest solution before and after them, which the agent does not see.

    For evaluation and as an upper bound. A turn is right if it shortens the solution. A turn without a solution before
    it has no diagnosis.

    Args:
        targets: Whether to add the first command of the solution to the diagnosis of an error.
    """

    def __init__(self, targets: bool = True) -> None:
        self.targets = targets

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """See :meth:`Reflector.reflect`."""
        return [self._one(trajectory) for trajectory in trajectories]

    def _one(self, trajectory: Trajectory) -> Reflection:
        solutions: Any = trajectory.info.get("solutions")
        if not isinstance(solutions, list):
            return Reflection((None,) * len(trajectory.turns), "rejected", issues=(("no_solution", 0),))
        diagnoses, state = [], 0
        for turn in trajectory.turns:
            before = solutions[state]
            state += turn.malformed is None  # the environment did not see a malformed reply
            won = bool(trajectory.info.get("success")) and state == len(solutions) - 1
            diagnoses.append(self._turn(turn, before, solutions[state], won))
        return Reflection(tuple(diagnoses), "ok", True)

    def _turn(self, turn: Turn, before: list[str], after: list[str], won: bool) -> Diagnosis | None:
        if not before:
            return None
        said = " ".join((turn.action or turn.text).split()) or "nothing"
        if won or (after and len(after) < len(before)):
            return Diagnosis(f"right: {said}", "high")
        target = {"action": before[0]} if self.targets else None
        return Diagnosis(f"wrong: {said}", "high", target, was_failure=target is None)
