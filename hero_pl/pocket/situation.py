"""Interface to the rules of both pocket environments.

A situation is built only from what the agent sees: the first observation, its actions, and the replies to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Situation(Protocol):
    """What is known before a turn. Immutable; :meth:`after` returns the situation after a turn."""

    @property
    def kinds(self) -> frozenset[str]:
        """Possible first parts of a diagnosis; the second part, after ``": "``, describes the action."""

    def right(self) -> Mapping[str, Any]:
        """The correct next step by the rules, as a tool call."""

    def judge(self, action: str, text: str, reply: str) -> tuple[str, Mapping[str, Any] | None]:
        """The diagnosis of a turn, and the correct step if the turn took another one.

        Args:
            action: The action sent to the environment; empty if the reply could not be parsed.
            text: The reply of the policy.
            reply: The observation that followed.
        """

    def after(self, action: str, reply: str) -> Situation:
        """The situation after a turn."""


def open_situation(first_observation: str) -> Situation | None:
    """The situation at the start of an episode; ``None`` if there are no rules for its environment."""
    from hero_pl.pocket.retail.rules import Clerk
    from hero_pl.pocket.shop.rules import Shopper

    return Shopper.open(first_observation) or Clerk.open(first_observation)
