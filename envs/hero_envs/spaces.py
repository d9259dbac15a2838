"""A Gymnasium space of arbitrary Unicode text."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

_SAMPLE_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 []<>\"'|äß漢字🙂"


class UnicodeText(gym.Space[str]):
    r"""All strings up to a length. ``gymnasium.spaces.Text`` accepts only letters and digits, unless every character
    is listed.

    Args:
        max_length: Longest text, in characters.
        seed: Seed of :meth:`sample`.

    Example:
        >>> "Grüße\n🙂" in UnicodeText(), 3 in UnicodeText()
        (True, False)
    """

    def __init__(self, max_length: int = 1 << 24, seed: int | None = None) -> None:
        self.max_length = max_length
        super().__init__(shape=(), dtype=None, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short random text; masks are ignored."""
        length = int(self.np_random.integers(1, min(24, self.max_length) + 1))
        return "".join(_SAMPLE_ALPHABET[i] for i in self.np_random.integers(0, len(_SAMPLE_ALPHABET), length))

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a string of at most ``max_length`` characters."""
        return isinstance(x, str) and len(x) <= self.max_length

    @property
    def is_np_flattenable(self) -> bool:
        """Texts have no array form."""
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((UnicodeText, self.max_length))

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"
