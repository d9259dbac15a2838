"""The templated requests of retail tasks: parse them in an instruction or a message, and format them.

The sentence forms are those of the benchmark's training split:

| form | goal |
|---|---|
| ``Cancel order #W because REASON. `` | cancel |
| ``Return #W via PAYMENT: Name {options}; Name; `` | return |
| ``For #W, exchange Name {old} to {changed}; ...; via PAYMENT. `` | exchange |
| ``For #W, modify Name {old} to {changed}; ...; via PAYMENT. `` | modify |
| ``For #W, change payment to PAYMENT. `` | payment |
| ``For #W, change address to {address} (same as #W2). `` | address |
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["cancel", "return", "exchange", "modify", "payment", "address"]
KINDS: tuple[Kind, ...] = ("cancel", "return", "exchange", "modify", "payment", "address")

Options: TypeAlias = dict[str, str]

ADDRESS_FIELDS = ("address1", "address2", "city", "country", "state", "zip")
"""Fields of an address, in the order of the data files."""

REASONS = ("no longer needed", "ordered by mistake")
"""Accepted reasons of a cancellation."""


@dataclass(frozen=True, slots=True)
class ItemWish:
    """One item of a request."""

    name: str
    options: Options | None = None
    """Options that identify the item; ``None`` if the name is enough."""
    changed: Options | None = None
    """Options to change; ``None`` for a return."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One request of a user."""

    kind: Kind
    order_id: str
    reason: str | None = None
    items: tuple[ItemWish, ...] = ()
    payment_id: str | None = None
    address: Options | None = None
    same_as: str | None = None
    """Source of the address: an order id, or other text."""

    def __str__(self) -> str:
        """The sentence form, with a trailing space."""
        if self.kind == "cancel":
            return f"Cancel order {self.order_id} because {self.reason}. "
        if self.kind == "payment":
            return f"For {self.order_id}, change payment to {self.payment_id}. "
        if self.kind == "address":
            address = {"order_id": self.order_id, **(self.address or {})}
            return f"For {self.order_id}, change address to {address} (same as {self.same_as}). "
        if self.kind == "return":
            items = "".join(f"{item.name}{f' {item.options}' if item.options else ''}; " for item in self.items)
            return f"Return {self.order_id} via {self.payment_id}: {items}"
        items = "".join(f"{item.name} {item.options or {}} to {item.changed or {}}; " for item in self.items)
        return f"For {self.order_id}, {self.kind} {items}via {self.payment_id}. "


@dataclass(frozen=True, slots=True)
class Identity:
    """Information to find a user."""

    first_name: str
    last_name: str
    zip: str | None = None
    email: str | None = None

    def __str__(self) -> str:
        known = f"zip code is {self.zip}" if self.email is None else f"email is {self.email}"
        return f"Your name is {self.first_name} {self.last_name} and your {known}. "


@dataclass(frozen=True, slots=True)
class Request:
    """Content of a text in the sentence forms."""

    identity: Identity | None
    goals: tuple[Goal, ...]


_DICT = r"\{[^{}]*\}"
_NAME = r"[^#;:{}.]+?"
_IDENTITY = re.compile(
    r"\b(?:[Yy]our|[Mm]y) name is (\S+) (\S+?),? and (?:your|my) "
    r"(?:zip code is (\w+)|email is ([^\s@]+@[^\s@]+?))\.(?=\s|$)"
)
_RETURN_ITEM = re.compile(rf"\s*({_NAME})(?: ({_DICT}))?;")
_CHANGE_ITEM = re.compile(rf"\s*({_NAME}) ({_DICT}) to ({_DICT});")
_VIA = re.compile(r"\s*via (\w+)\.")
_START = re.compile(
    rf"Cancel order (?P<cancel>#\w+) because (?P<reason>[^.]+)\."
    rf"|Return (?P<return>#\w+) via (?P<payment>\w+):"
    rf"|For (?P<change>#\w+), (?:(?P<kind>exchange|modify)(?= )"
    rf"|change payment to (?P<to>\w+)\."
    rf"|change address to (?P<address>{_DICT}) \(same as (?P<same>[^)]*)\)\.)"
)


def parse_request(text: str) -> Request:
    """Parse identity and goals in a text; text that is not in a sentence form is ignored.

    Example:
        >>> text = "My name is Ann Lee and my zip code is 19031. Cancel order #W1 because no longer needed. "
        >>> request = parse_request(text)
        >>> request.identity.zip, request.goals[0].kind, request.goals[0].reason
        ('19031', 'cancel', 'no longer needed')
    """
    match = _IDENTITY.search(text)
    identity = Identity(match[1], match[2], match[3], match[4]) if match else None
    goals: list[Goal] = []
    position = 0
    while match := _START.search(text, position):
        goal, position = _read_goal(match, text)
        if goal is not None:
            goals.append(goal)
    return Request(identity, tuple(goals))


def _read_goal(match: re.Match[str], text: str) -> tuple[Goal | None, int]:
    """The goal that begins at ``match`` (``None`` if it is incomplete), and the position after it."""
    end = match.end()
    if match["cancel"]:
        return Goal("cancel", match["cancel"], reason=match["reason"]), end
    if match["to"]:
        return Goal("payment", match["change"], payment_id=match["to"]), end
    if match["address"]:
        address = _options(match["address"])
        if address is None or any(field not in address for field in ADDRESS_FIELDS):
            return None, end
        fields = {field: address[field] for field in ADDRESS_FIELDS}
        return Goal("address", match["change"], address=fields, same_as=match["same"]), end
    items: list[ItemWish] = []
    pattern = _RETURN_ITEM if match["return"] else _CHANGE_ITEM
    while item := pattern.match(text, end):
        items.append(ItemWish(item[1], _options(item[2]), None if match["return"] else _options(item[3])))
        end = item.end()
    if match["return"]:
        return (
            Goal("return", match["return"], items=tuple(items), payment_id=match["payment"]) if items else None
        ), end
    via = _VIA.match(text, end)
    if not items or via is None:
        return None, end
    kind: Kind = "exchange" if match["kind"] == "exchange" else "modify"
    return Goal(kind, match["change"], items=tuple(items), payment_id=via[1]), via.end()


def _options(text: str | None) -> Options | None:
    """Parse ``{'name': 'value'}`` without executing anything; ``None`` if it is anything else."""
    if text is None:
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, Mapping) or not all(isinstance(x, str) for pair in value.items() for x in pair):
        return None
    return dict(value)
