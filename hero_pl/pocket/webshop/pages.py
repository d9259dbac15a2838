"""Read a WebShop page in the observation format ``text`` and the request on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hero_envs.webshop.pages import PAGE_SIZE, SUB_PAGES
from hero_envs.webshop.vocabulary import DEPARTMENTS, OPTION_VALUES, REQUESTS

SEPARATOR = " [SEP] "
Kind = Literal["index", "results", "item", "sub", "done"]
_LIMIT = re.compile(r",? and price lower than (\d+(?:\.\d+)?) dollars")
_PRICE = re.compile(r"\d[\d,]*(?:\.\d+)?")
_COUNT = re.compile(r"Page (\d+) \(Total results: (\d+)\)")
_BUTTONS = frozenset(("back to search", "next >", "< prev", "buy now", *SUB_PAGES))
_WORD = re.compile(r"[\w.'-]+")
_EMPTY_WORD = re.compile(
    "i|me|my|you|it|its|one|an?|the|that|which|with|in|and|of|for|is|are|be|can|should|"
    "find|need|want|looking|please|get|show|new|old|broke"
)
"""A word of a request that says nothing about the product."""
_KINDS = sorted((thing for department in DEPARTMENTS for thing in department.things), key=len, reverse=True)
_OPENINGS = tuple(text.partition("{")[0] for text in REQUESTS)


@dataclass(frozen=True, slots=True)
class Request:
    """What the customer wants."""

    text: str
    """The request without its price."""
    limit: float
    """Price bound in dollars; infinite without one."""
    kind: str = ""
    """The kind of product, of those that generated catalogs sell; empty if it names none of them."""

    @staticmethod
    def read(instruction: str) -> Request:
        """Split an instruction into its text and its price bound."""
        found = _LIMIT.search(instruction)
        text = instruction[: found.start()] if found else instruction
        request = Request(" ".join(_words(text)), float(found[1]) if found else float("inf"))
        kind = next(filter(request.names, _KINDS), "") if text.startswith(_OPENINGS) else ""
        return replace(request, kind=kind)

    @property
    def query(self) -> str:
        """Key words for a search."""
        return " ".join(word for word in self.text.split() if not _EMPTY_WORD.fullmatch(word))

    def names(self, phrase: str) -> bool:
        """Whether the request contains these words, one after the other."""
        words = " ".join(_words(phrase))
        return bool(words) and f" {words} " in f" {self.text} "


@dataclass(frozen=True, slots=True)
class Listed:
    """A product as a results page shows it."""

    asin: str
    """As the page spells it."""
    title: str
    price: float
    """Lowest price in dollars."""

    def rank(self, request: Request) -> tuple[bool, bool, bool]:
        """How well it fits, by what is visible: the kind of product, the price, and the property in the title."""
        head, _, rest = self.title.lower().partition(",")
        property_ = rest.partition(" for ")[0]
        return head.endswith(request.kind), self.price <= request.limit, request.names(property_)


@dataclass(frozen=True, slots=True)
class View:
    """A page as its text shows it."""

    kind: Kind
    instruction: str = ""
    products: tuple[Listed, ...] = ()
    more: bool = False
    """Whether there is another page of results."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of an option -> its values, in lower case as the catalog has them."""
    elements: Mapping[str, str] = field(default_factory=dict)
    """Everything that can be clicked: in lower case, as ``click[...]`` reads it -> as the page spells it."""

    @staticmethod
    def read(text: str) -> View | None:
        """Read a page; ``None`` if the text is not a page in this format."""
        parts = text.split(SEPARATOR)
        if parts[0] == "Thank you for shopping with us!":
            return View("done")
        if parts[0] == "WebShop" and parts[1:2] == ["Instruction:"] and len(parts) > 2:
            return View("index", parts[2])
        if parts[0] != "Instruction:" or len(parts) < 4:
            return None
        instruction, rest = parts[1], parts[2:]
        buttons = [part for part in rest if part.lower() in _BUTTONS]
        if found := _COUNT.fullmatch(rest[1]):
            products = _listed(rest)
            more = int(found[1]) * PAGE_SIZE < int(found[2])
            buttons = buttons if products else [button for button in buttons if button != "Next >"]
            return View(
                "results", instruction, products, more, elements=_by_lower(buttons, [one.asin for one in products])
            )
        price = next((at for at, part in enumerate(rest) if part.startswith("Price: ")), None)
        if "Buy Now" in buttons and price is not None:
            options = _options(rest[2 : price - 1])
            return View("item", instruction, options=options, elements=_by_lower(buttons, *options.values()))
        return View("sub", instruction, elements=_by_lower(buttons))


def _options(parts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The text does not tell names from values: a name is the first part, or one that generated catalogs use."""
    options: dict[str, tuple[str, ...]] = {}
    name = ""
    for part in (part.lower() for part in parts):
        if not name or part in OPTION_VALUES:
            name = part
            options[name] = ()
        else:
            options[name] += (part,)
    return options


def _listed(parts: list[str]) -> tuple[Listed, ...]:
    rows = parts[parts.index("Next >") + 1 :] if "Next >" in parts else []
    products = []
    for asin, title, tag in zip(rows[::3], rows[1::3], rows[2::3], strict=False):
        price = _PRICE.search(tag)
        products.append(Listed(asin, title, float(price[0].replace(",", "")) if price else float("inf")))
    return tuple(products)


def _by_lower(*groups: Sequence[str]) -> dict[str, str]:
    return {one.lower(): one for group in groups for one in group}


def _words(text: str) -> list[str]:
    return [word.rstrip(".") for word in _WORD.findall(text.lower())]
