"""Short names instead of ids, for policies too small to copy digits.

All text for the policy is shortened: the first order of the dialogue is ``#1``, a payment method is its source, an item
is its name, and so on. Text from the policy is expanded again, so tools, user and reward get the real ids. The names
are valid for one episode, and an id keeps its first name.
"""

from __future__ import annotations

import re
from typing import Any

_ID = re.compile(
    r"(?P<order>#W\d+)"
    r"|(?P<email>[\w.]+@example\.com)"
    r"|(?P<payment>\b(?:credit_card|gift_card|paypal)_\d+)"
    r"|(?P<user>\b[a-z]+_[a-z]+_\d+)"
    r"|(?<=zip code is )(?P<zip>\d+)"
    r"|(?P<item>\b\d+) (?P<name>\w+) of \w+ \{[^{}]*\}"
)
_FIRST = {"order": "#", "email": "mail@", "user": "user", "zip": "zip"}
_SPOKEN = re.compile(r"#\d+\b")


class Handles:
    """The names of one episode."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._ids: dict[str, str] = {}

    def shorten(self, text: str) -> str:
        """Shorten a text for the policy.

        Example:
            >>> Handles().shorten("delivered; 4837 Mug of p1 {'color': 'red'}; paid paypal_12")
            'delivered; Mug; paid paypal'
        """
        return _ID.sub(self._name, text)

    def expand(self, value: Any) -> Any:
        """Replace names by ids in the arguments of a call; other words stay."""
        if isinstance(value, str):
            return self._ids.get(value, value)
        if isinstance(value, list):
            return [self.expand(item) for item in value]
        if isinstance(value, dict):
            return {key: self.expand(item) for key, item in value.items()}
        return value

    def say(self, text: str) -> str:
        """Replace names of orders by their ids in a message to the user."""
        return _SPOKEN.sub(lambda match: self._ids.get(match[0], match[0]), text)

    def _name(self, match: re.Match[str]) -> str:
        kind = "item" if match["item"] else str(match.lastgroup)
        key = match[kind]
        if key not in self._names:
            first = _FIRST.get(kind) or (match["name"] if kind == "item" else key.rpartition("_")[0])
            number = 1
            name = f"{first}1" if kind in _FIRST else first
            while name in self._ids:
                number += 1
                name = f"{first}{number}"
            self._names[key], self._ids[name] = name, key
        return self._names[key]
