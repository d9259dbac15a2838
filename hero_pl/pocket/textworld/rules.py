"""Rules for commands in TextWorld, from the text that the agent saw: the objective, the replies, what it carries.

The objective is read as a list of steps. A step is done when a reply confirms it; the game's own state is not used, so
the rules can be wrong where the text is ambiguous, and say nothing where it is silent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hero_pl.pocket.textworld.objective import Step, read_steps, thing

KINDS = frozenset({"right", "refused", "idle", "undone", "other"})
"""The command was a step; the game refused it; it changed nothing; it undid a step; it did something else."""
BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}
INVERSE = {"open": "close", "close": "open", "unlock": "lock", "lock": "unlock", "take": "put", "put": "take"}
_ROOM = re.compile(r"-= (.+?) =-")
_CARRYING = re.compile(r"You are carrying: (.+)\.")
_KEY = re.compile(r"\b\w*key(?:card)?$", re.IGNORECASE)
_DONE: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("take", re.compile(r"You (?:take|pick up) the (.+?)(?: from the (.+?))?\.")),
    ("unlock", re.compile(r"You unlock the (.+?)\.")),
    ("lock", re.compile(r"You lock the (.+?)\.")),
    ("open", re.compile(r"You open the (.+?)(?:, revealing .+?)?\.")),
    ("close", re.compile(r"You close the (.+?)\.")),
    ("insert", re.compile(r"You put the (.+?) into the (.+?)\.")),
    ("put", re.compile(r"You put the (.+?) on the (.+?)\.")),
    ("drop", re.compile(r"You drop the (.+?) on the ground\.")),
    ("eat", re.compile(r"You eat the (.+?)\.")),
)
_POINT = "Your score has just gone up"


@dataclass(frozen=True, slots=True)
class Player:
    """What is known before a turn (a :class:`hero_pl.pocket.situation.Situation`)."""

    steps: tuple[Step, ...]
    """Steps of the objective that are not done, in order."""
    done: tuple[Step, ...] = ()
    seen: str = ""
    """All text of the game so far, in lower case."""
    carried: tuple[str, ...] = ()
    astray: tuple[str, ...] = ()
    """Directions that were walked and are no step."""

    @property
    def kinds(self) -> frozenset[str]:
        """See :class:`hero_pl.pocket.situation.Situation`."""
        return KINDS

    @staticmethod
    def open(first_observation: str) -> Player | None:
        """The situation at the start; ``None`` if the text is not the start of a TextWorld game."""
        objective, _, scene = first_observation.partition("\n")
        rooms = _ROOM.findall(scene)
        if not rooms or "You are carrying" not in scene:
            return None
        listed = _CARRYING.search(scene)
        carried = tuple(thing(one) for one in re.split(r", | and ", listed[1])) if listed else ()
        return Player(read_steps(objective, rooms), seen=first_observation.lower(), carried=carried)

    def right(self) -> Mapping[str, Any]:
        """The next step; ``look`` if the text does not tell it."""
        return {"action": self.target() or "look"}

    def target(self) -> str | None:
        """The next command, or ``None`` if it cannot be inferred."""
        if self.astray:
            return f"go {BACK[self.astray[-1]]}"
        step = self.steps[0] if self.steps else None
        if step is None or not step.verb:
            return None
        if step.verb == "go":
            return f"go {step.item}"
        if step.item.lower() not in self.seen:
            return None
        if step.verb in ("unlock", "lock"):
            key = step.place or self._key(step.item)
            return f"{step.verb} {step.item} with {key}" if key else None
        return step.command

    def _key(self, lock: str) -> str | None:
        """The key that fits a lock: with words of its name, or the only one that is carried."""
        if told := re.search(rf"unlock the {re.escape(lock.lower())} with the (.+?) first\.", self.seen):
            return next((one for one in self.carried if one.lower() == told[1]), told[1])
        keys = [one for one in self.carried if _KEY.search(one)]
        kind = lock.rpartition(" ")[0]
        same = [key for key in keys if kind and key.lower().startswith(kind.lower())]
        return same[0] if same else keys[0] if len(keys) == 1 else None

    def judge(self, action: str, text: str, reply: str) -> tuple[str, Mapping[str, Any] | None]:
        """The diagnosis of a turn, and the right command if the turn took another one and it can be inferred."""
        said = " ".join((action or text).split()) or "nothing"
        kind = self._kind(action, reply)
        told = replace(self, seen=f"{self.seen}\n{reply.lower()}")  # a refusal may say which key is needed
        target = told.target() if kind != "right" else None
        return f"{kind}: {said}", {"action": target} if target else None

    def _kind(self, action: str, reply: str) -> str:
        event = read_event(action, reply)
        steps = self.steps[:1] if event and event.verb == "go" else self.steps  # a room is left when its steps are done
        if _POINT in reply or (event and any(one.matches(event) for one in steps)):
            return "right"
        if event is None:
            return "idle" if _ROOM.search(reply) or _is_look(action) else "refused"
        if event.verb == "go":
            return "right" if self.astray and event.item == BACK[self.astray[-1]] else "other"
        if any(_undoes(event, one) for one in self.done):
            return "undone"
        if any(one.matches(event) for one in self.done):
            return "right"  # again, after it was undone
        if event.verb in ("open", "unlock") and any(one.place.lower() == event.item.lower() for one in self.steps):
            return "right"  # it holds, or will hold, what a step needs
        return "other" if self._explains() else "right"

    def _explains(self) -> bool:
        """Whether the objective names the way, so that anything else is none; otherwise exploring may be the way."""
        return self.target() is not None or len(self.steps) + len(self.done) > 1

    def after(self, action: str, reply: str) -> Player:
        """The situation after a turn."""
        seen = f"{self.seen}\n{reply.lower()}"
        event = read_event(action, reply) if action else None
        if event is None:
            return replace(self, seen=seen)
        if event.verb == "go":
            return replace(self, seen=seen, **self._walked(event))
        carried = tuple(one for one in self.carried if one.lower() != event.item.lower())
        if event.verb == "take":
            carried = (*carried, event.item)
        elif event.verb not in ("insert", "put", "drop", "eat"):
            carried = self.carried
        steps, done = list(self.steps), list(self.done)
        if found := next((one for one in steps if one.matches(event)), None):
            steps.remove(found)
            done.append(found)
        elif found := next((one for one in done if _undoes(event, one)), None):
            done.remove(found)
            steps.insert(0, found)
        elif steps and not steps[0].verb:
            done.append(steps.pop(0))  # a step that could not be read is done by a change that is none of the others
        return replace(self, steps=tuple(steps), done=tuple(done), seen=seen, carried=carried)

    def _walked(self, event: Step) -> dict[str, Any]:
        if self.astray:
            home = event.item == BACK[self.astray[-1]]
            return {"astray": self.astray[:-1] if home else (*self.astray, event.item)}
        if self.steps and self.steps[0].matches(event):
            return {"steps": self.steps[1:], "done": (*self.done, self.steps[0])}
        return {"astray": (*self.astray, event.item)} if self._explains() else {}


def read_event(action: str, reply: str) -> Step | None:
    """The change that a reply reports; ``None`` if there is none."""
    for verb, pattern in _DONE:
        if found := pattern.search(reply):
            return Step(verb, *(group or "" for group in found.groups()))
    direction = next(_directions(action), None)
    return Step("go", direction) if direction and _ROOM.search(reply) else None


def _directions(action: str) -> Iterator[str]:
    words = action.lower().split()
    if words and words[0] in ("go", "walk", "head", "travel", *BACK):
        yield from (word for word in words if word in BACK)


def _is_look(action: str) -> bool:
    return action.lower().split()[:1] in (["look"], ["l"], ["inventory"], ["i"], ["examine"], ["x"])


def _undoes(event: Step, step: Step) -> bool:
    """Whether a change takes back a step."""
    verb = "put" if event.verb in ("insert", "drop") else event.verb
    of_step = "put" if step.verb in ("insert", "drop") else step.verb
    return INVERSE.get(verb) == of_step and event.item.lower() == step.item.lower()
