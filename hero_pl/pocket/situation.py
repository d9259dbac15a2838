"""What is known before a turn, whichever the pocket environment: one interface to both sets of rules.

A situation sees what the agent sees: the first observation, what it did, and what came back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Situation(Protocol):
    """What is known before a turn; it never changes, a turn leads to another one."""

    @property
    def kinds(self) -> frozenset[str]:
        """What a diagnosis can begin with; the rest of it, after ``": "``, says what was done."""

    def right(self) -> Mapping[str, Any]:
        """The step that the rules take, as a tool call."""

    def judge(self, action: str, text: str, reply: str) -> tuple[str, Mapping[str, Any] | None]:
        """The diagnosis of a turn, and the right step if another one was taken.

        Args:
            action: What was sent to the environment; empty if the reply could not be read as an action.
            text: What the policy wrote.
            reply: The observation that followed.
        """

    def after(self, action: str, reply: str) -> Situation:
        """The situation after a turn."""


def open_situation(first_observation: str) -> Situation | None:
    """The situation at the start of an episode; ``None`` if there are no rules for its environment."""
    from hero_pl.pocket.retail.rules import Clerk
    from hero_pl.pocket.shop.rules import Shopper

    return Shopper.open(first_observation) or Clerk.open(first_observation)
