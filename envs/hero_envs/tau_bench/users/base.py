"""The user simulator's interface."""

from __future__ import annotations

from abc import ABC, abstractmethod

STOP = "###STOP###"
"""A message that contains this ends the dialogue."""

GREETING = "Hi! How can I help you today?"
"""The policy's assumed message before the user's first message."""


class UserError(RuntimeError):
    """The user simulator failed; the episode does not measure the policy and must not be scored."""


class User(ABC):
    """Plays the user of one episode at a time.

    A user gets the instruction, but neither the database nor the ground truth.
    """

    label: str = "user"
    """Included in every episode's info, because scores with different users are not comparable."""

    @abstractmethod
    def reset(self, instruction: str) -> str:
        """Begin a new dialogue; return the first message.

        Args:
            instruction: Knowledge and request of the user, in the second person.
        """

    @abstractmethod
    def step(self, message: str) -> str:
        """Answer the policy's message; a text with ``###STOP###`` ends the dialogue."""

    def reseed(self, seed: int) -> None:  # noqa: B027 (few users draw anything)
        """Seed the following dialogues; does nothing for a deterministic user."""

    def cancel(self) -> None:  # noqa: B027 (few users wait for anything)
        """Called from another thread when the run is to end: give up what is being waited for."""

    @property
    def cost(self) -> float:
        """Cost of the current dialogue, in the currency of the configured prices."""
        return 0.0
