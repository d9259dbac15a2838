"""Rule-based reflectors: diagnoses computed from pages and conversations, without a model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hero_pl.pocket.shop.rules import Shopper
from hero_pl.pocket.situation import Situation
from hero_pl.reflection.base import Reflector
from hero_pl.types import Diagnosis, Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy


class RuleReflector(Reflector):
    """Diagnoses every turn by rule from what the agent saw, without hidden state.

    Args:
        targets: Whether to add the corrected action to the diagnosis of an error.
    """

    needs_replies = True
    stranger: str
    """Issue code of an episode that the rules do not cover."""

    def __init__(self, targets: bool = True) -> None:
        self.targets = targets

    @abstractmethod
    def open(self, first_observation: str) -> Situation | None:
        """The situation at the start of an episode, ``None`` if the rules do not cover it."""

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """See :meth:`Reflector.reflect`."""
        return [self._one(trajectory) for trajectory in trajectories]

    def _one(self, trajectory: Trajectory) -> Reflection:
        situation = self.open(trajectory.first_observation)
        if situation is None:
            return Reflection((None,) * len(trajectory.turns), "rejected", issues=((self.stranger, 0),))
        diagnoses = []
        for turn in trajectory.turns:
            diagnosis = self.diagnosis(*situation.judge(turn.action, turn.text, turn.observation))
            if not self.targets and diagnosis.next_action_target is not None:
                diagnosis = replace(diagnosis, next_action_target=None, was_failure=True)
            diagnoses.append(diagnosis)
            situation = situation.after(turn.action, turn.observation)
        return Reflection(tuple(diagnoses), "ok", True)

    def diagnosis(self, text: str, target: Mapping[str, Any] | None) -> Diagnosis:
        """The diagnosis of a turn that the rules judged."""
        return Diagnosis(text, "high", target)


class ShopRules(RuleReflector):
    """Diagnoses turns of the pocket shop by rule from the request and the pages, without hidden state.

    Args:
        targets: Whether to add the corrected action to the diagnosis of an error.
    """

    stranger = "not_a_pocket_shop"

    def open(self, first_observation: str) -> Situation | None:
        """See :meth:`RuleReflector.open`."""
        return Shopper.open(first_observation)
