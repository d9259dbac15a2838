"""Read the objective of a TextWorld game, a paragraph of English, as a list of steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_IN = r"(?: (?:in|inside|within) the [^.]+?)?"
_GO = r"(?:go|head|venture|travel|move|go to the|take a trip)"
_TAKE = r"(?:take|retrieve|recover|pick up|pick-up|lift)"
_WITH = r"(?: with (?:the )?(.+?))?"
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("drop", r"(?:place|drop|ditch|throw|toss|deposit) the (.+?) on the floor of the .+"),
    ("unlock/key", r"insert (?:the )?(.+?) into the (.+?)" + _IN + r"'s lock to unlock it"),
    ("lock/key", r"(?:insert|put|place|deposit) (?:the )?(.+?) into the (.+?)" + _IN + r" to lock it"),
    ("unlock", r"unlock the (.+?)" + _IN + _WITH),
    ("unlock", r".*?\bthe (.+?)" + _IN + r" is unlocked" + _WITH),
    ("lock", r"lock the (.+?)" + _IN + _WITH),
    ("lock", r".*?\bthe (.+?)" + _IN + r" is locked" + _WITH),
    ("open", r"open the (.+?)" + _IN),
    ("open", r".*?\bthat the (.+?)" + _IN + r" is (?:opened|open|wide open|ajar)"),
    ("close", r"close the (.+?)" + _IN),
    ("close", r".*?\bthat the (.+?)" + _IN + r" is (?:closed|shut)"),
    ("put", r"(?:put|place|sit|rest) the (.+?) on the (.+?)" + _IN),
    ("insert", r"(?:insert|put|place|deposit) the (.+?) (?:into|inside) the (.+?)" + _IN),
    ("take", _TAKE + r" the (.+?) from the floor of the .+"),
    ("take", _TAKE + r" the (.+?) from the (.+?)" + _IN),
    ("take", _TAKE + r" the (.+?)(?: that's)? in the .+"),
    ("take", _TAKE + r" the (.+)"),
    ("eat", r"eat the (.+)"),
    ("go", r"(?:[a-z ]*\bto )?" + _GO + r"(?: through the)? (north|south|east|west).*"),
)
_POLITE = re.compile(r"^(?:.*\bif you could |I need you to |you can )", re.IGNORECASE)
STEPS = tuple((verb, re.compile(pattern, re.IGNORECASE)) for verb, pattern in _PATTERNS)


@dataclass(frozen=True, slots=True)
class Step:
    """One command: ``take key from chest`` is ``("take", "key", "chest")``. Without a verb it could not be read."""

    verb: str
    item: str = ""
    place: str = ""
    """Where, or with which key; empty if it is not said."""

    @property
    def command(self) -> str:
        """As the game expects it."""
        joined = {"take": "from", "insert": "into", "put": "on", "unlock": "with", "lock": "with"}
        return f"{self.verb} {self.item} {joined[self.verb]} {self.place}" if self.place else f"{self.verb} {self.item}"

    def matches(self, event: Step) -> bool:
        """Whether a change in the game is this step."""
        if (self.verb, self.item.lower()) != (event.verb, event.item.lower()):
            return False
        return self.verb not in ("insert", "put") or self.place.lower() == event.place.lower()


def read_steps(objective: str, rooms: Sequence[str] = ()) -> tuple[Step, ...]:
    """The steps of an objective, in order; sentences that could not be read are steps without a verb."""
    known = {room.lower() for room in rooms}
    return tuple(_step(sentence, known) for sentence in re.split(r"(?<=[.!?])\s+", objective.strip()) if sentence)


def _step(sentence: str, rooms: set[str]) -> Step:
    clause = _POLITE.sub("", sentence.rstrip(".!?").rpartition(", ")[2].strip())
    for verb, pattern in STEPS:
        if found := pattern.fullmatch(clause):
            item, place = (*(thing(group or "") for group in found.groups()), "")[:2]
            if verb.endswith("/key"):
                return Step(verb.partition("/")[0], place, item)
            return Step(verb, item, "" if place.lower() in rooms else place)
    return Step("")


def thing(name: str) -> str:
    """A name without its article."""
    return re.sub(r"^(?:an?|the|some) ", "", name.strip(), flags=re.IGNORECASE)
