"""The user simulator's interface."""

from __future__ import annotations

from abc import ABC, abstractmethod

STOP = "###STOP###"
"""A message that contains this ends the dialogue."""

GREETING = "Hi! How can I help you today?"
"""What the policy is taken to have said before the user's opening message."""


class UserError(RuntimeError):
    """The user simulator failed, so the episode says nothing about the policy and must not be scored."""


class User(ABC):
    """Plays the user of one episode at a time.

    A user knows the instruction. It never sees the database or the ground truth.
    """

    label: str = "user"
    """Goes into every episode's info: scores with different users are not comparable."""

    @abstractmethod
    def reset(self, instruction: str) -> str:
        """Begin a new dialogue and say the opening message.

        Args:
            instruction: What the user knows and wants, in the second person.
        """

    @abstractmethod
    def step(self, message: str) -> str:
        """Answer the policy's message; a text with ``###STOP###`` ends the dialogue."""

    def reseed(self, seed: int) -> None:  # noqa: B027 (few users draw anything)
        """Fix what is drawn in the dialogues that follow; a user without chance has nothing to do."""

    def cancel(self) -> None:  # noqa: B027 (few users wait for anything)
        """Called from another thread when the run is to end: give up what is being waited for."""

    @property
    def cost(self) -> float:
        """Money spent on the present dialogue, in the currency of the configured prices."""
        return 0.0
