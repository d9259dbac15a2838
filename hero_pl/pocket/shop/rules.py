"""Rules for correct actions in the pocket shop, computed from the pages only.

The rules use the request and the current page. They follow a fixed order (search, item, options in page order, buy). If
the wanted item is not in the results they search again; they do not revise anything else. A turn is judged by the page
before it, so that only the turn that caused a problem is an error, not the turns after it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from hero_envs.webshop.actions import parse
from hero_pl.runs.records import is_error

_REQUEST = re.compile(r"buy an? (\w+) (\w+) with color: (\w+), and size: (\w+)")

Slot = Literal["search", "item", "color", "size", "buy", "back"]
Kind = Literal["right", "wrong", "wasted", "invalid"]


@dataclass(frozen=True, slots=True)
class Request:
    """What the customer wants."""

    material: str
    category: str
    color: str
    size: str

    @staticmethod
    def read(text: str) -> Request | None:
        """Find the request in a page or a task."""
        match = _REQUEST.search(text)
        return Request(*match.groups()) if match else None

    def value(self, slot: Slot) -> str:
        """The requested value of a slot."""
        return {
            "search": self.category,
            "item": f"{self.material} {self.category}",
            "color": self.color,
            "size": self.size,
            "buy": "buy now",
            "back": "< prev",
        }[slot]


@dataclass(frozen=True, slots=True)
class Page:
    """The decision that a page asks for."""

    slot: Slot
    values: tuple[str, ...]
    """Elements that can be clicked for the slot, in page order."""

    @staticmethod
    def read(text: str) -> Page:
        """Read a compact page."""
        text = text.removeprefix("error: ")
        if text.startswith("find:"):
            return Page("search", ())
        if text.startswith("results:"):
            return Page("item", _values(text.removeprefix("results:").partition(" ; ")[0]))
        for slot in ("color", "size"):
            if f"; {slot}:" in text:
                return Page(slot, _values(text.partition(f"; {slot}:")[2].partition(" ; ")[0]))
        if text.endswith("; buy now"):
            return Page("buy", ("buy now",))
        return Page("back", ("< prev",))


def decision(request: Request, page: Page) -> tuple[Slot, str]:
    """The slot that a page asks for, and its correct value."""
    if page.slot == "item" and request.value("item") not in page.values:
        return "back", "back to search"
    return page.slot, request.value(page.slot)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judged action."""

    kind: Kind
    slot: Slot
    value: str
    """The value that was clicked or searched."""
    right: str
    """The correct value."""

    @property
    def text(self) -> str:
        """The diagnosis as text."""
        return f"{self.kind}: {self.value}"


def action(slot: Slot, value: str) -> str:
    """The action as text, in the shop's format."""
    return f"search[{value}]" if slot == "search" else f"click[{value}]"


def call(slot: Slot, value: str) -> dict[str, Any]:
    """The action as a tool call."""
    if slot == "search":
        return {"name": "search", "arguments": {"query": value}}
    return {"name": "click", "arguments": {"element": value}}


def judge(request: Request, page_text: str, taken: str, answer: str, text: str = "") -> Verdict:
    """Judge one action, in any form that the shop accepts, by the page before it and the reply after it.

    Args:
        request: What the customer wants.
        page_text: The page before the action.
        taken: The action sent to the shop; empty if the reply could not be parsed.
        answer: The observation that followed.
        text: The reply of the policy, which the verdict names where nothing was sent.

    Returns:
        The verdict, with the value as the shop reads it (in lower case).
    """
    slot, right = decision(request, Page.read(page_text))
    name, read, _ = parse(taken)
    value = read if read and name in ("search", "click") else (taken or text).strip() or "nothing"
    kind: Kind = "wrong"
    if (name, read) == parse(action(slot, right))[:2]:
        kind = "right"
    elif is_error(answer):
        kind = "invalid"
    elif Page.read(answer).slot == "back" and answer != "done":
        kind = "wasted"
    return Verdict(kind, slot, value, right)


@dataclass(frozen=True, slots=True)
class Shopper:
    """Situation of the pocket shop: the request and the current page."""

    request: Request
    page: str

    @property
    def kinds(self) -> frozenset[str]:
        """See :class:`hero_pl.pocket.situation.Situation`."""
        return frozenset(get_args(Kind))

    @staticmethod
    def open(first_observation: str) -> Shopper | None:
        """The situation at the start; ``None`` if the observation is not a request of this shop."""
        request = Request.read(first_observation)
        return Shopper(request, first_observation) if request else None

    @property
    def slot(self) -> Slot:
        """The slot that the page asks for."""
        return Page.read(self.page).slot

    def right(self) -> dict[str, Any]:
        """The correct next step by the rules."""
        return call(*decision(self.request, Page.read(self.page)))

    def judge(self, action: str, text: str, reply: str) -> tuple[str, Mapping[str, Any] | None]:
        """The diagnosis of a turn, and the correct step if the turn took another one."""
        verdict = judge(self.request, self.page, action, reply, text)
        return verdict.text, None if verdict.kind == "right" else call(verdict.slot, verdict.right)

    def after(self, action: str, reply: str) -> Shopper:
        """The situation after a turn; an unparsable reply changes nothing."""
        return replace(self, page=reply) if action else self


def _values(text: str) -> tuple[str, ...]:
    return tuple(value.strip() for value in text.split("|") if value.strip())
