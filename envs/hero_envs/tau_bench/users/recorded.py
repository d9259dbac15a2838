"""A user that replays recorded messages, independent of the policy."""

from __future__ import annotations

from collections.abc import Sequence

from hero_envs.tau_bench.users.base import STOP, User


class RecordedUser(User):
    """Sends the given messages in order, then stops.

    Args:
        replies: Replies to the policy's messages.
        opening: The first message.

    Example:
        >>> user = RecordedUser(["It is 19122."], opening="Hello")
        >>> user.reset("unused"), user.step("Your zip code?"), user.step("Anything else?")
        ('Hello', 'It is 19122.', '###STOP###')
    """

    label = "recorded"

    def __init__(self, replies: Sequence[str], opening: str = "") -> None:
        self._replies = tuple(replies)
        self._opening = opening
        self._next = 0

    def reset(self, instruction: str) -> str:
        """Start again; the instruction is not used."""
        self._next = 0
        return self._opening

    def step(self, message: str) -> str:
        """The next recorded reply."""
        self._next += 1
        return self._replies[self._next - 1] if self._next <= len(self._replies) else STOP
