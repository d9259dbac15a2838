"""Read a WebShop page in the observation format ``text`` and the request on it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hero_envs.webshop.pages import ACTIONS_HEADING, PAGE_SIZE, SUB_PAGES
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
_KINDS = {thing: department for department in DEPARTMENTS for thing in department.things}
_OPENINGS = tuple(text.partition("{")[0] for text in REQUESTS)


@dataclass(frozen=True, slots=True)
class Request:
    """What the customer wants."""

    text: str
    """The request without its price: its words, in lower case."""
    limit: float
    """Price bound in dollars; infinite without one."""
    kind: str
    """The kind of product."""
    attributes: tuple[str, ...]
    """Properties that it should have."""
    options: Mapping[str, str]
    """Name of an option -> the requested value, in lower case as the catalog has them."""

    @staticmethod
    def read(instruction: str) -> Request | None:
        """Read an instruction; ``None`` unless it names a kind of product and a property of generated catalogs."""
        found = _LIMIT.search(instruction)
        text = instruction[: found.start()] if found else instruction
        words = _spaced(text)
        kind = _longest(named_in(words, _KINDS))
        attributes = named_in(words, _KINDS[kind].attributes) if kind else ()
        if not attributes or not text.startswith(_OPENINGS):
            return None
        # options come last; a material before them can contain the name of a color
        rest = words[max(_end(words, phrase) for phrase in (kind, *attributes)) :]
        wanted = {name: _longest(named_in(rest, OPTION_VALUES[name])) for name in _KINDS[kind].groups}
        limit = float(found[1]) if found else float("inf")
        return Request(words, limit, kind, attributes, {name: value for name, value in wanted.items() if value})

    @property
    def query(self) -> str:
        """Key words for a search."""
        return " ".join(word for word in self.text.split() if not _EMPTY_WORD.fullmatch(word))


@dataclass(frozen=True, slots=True)
class Listed:
    """A product as a results page shows it."""

    asin: str
    """As the page spells it."""
    title: str
    price: float
    """Lowest price in dollars."""

    @property
    def attribute(self) -> str:
        """The property in the title."""
        return self.title.lower().partition(",")[2].partition(" for ")[0].strip()

    def fits(self, request: Request) -> tuple[bool, bool]:
        """Whether it is of the requested kind, and whether its price is within the bound."""
        return self.title.lower().partition(",")[0].endswith(request.kind), self.price <= request.limit


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
    text: str = ""
    """What a description or another page about a product says: its words, in lower case."""

    @staticmethod
    def read(text: str) -> View | None:
        """Read a page, with or without a list of actions below; ``None`` if it is no page in this format."""
        parts = text.partition(ACTIONS_HEADING)[0].split(SEPARATOR)
        if parts[0] == "Thank you for shopping with us!":
            return View("done")
        if parts[:2] == ["WebShop", "Instruction:"] and parts[3:] == ["Search"]:
            return View("index", parts[2])
        if parts[0] != "Instruction:" or len(parts) < 4:
            return None
        instruction, rest = parts[1], parts[2:]
        buttons = [part for part in rest if part.lower() in _BUTTONS]
        if found := _COUNT.fullmatch(rest[1]):
            products = _listed(rest)
            more = bool(products) and int(found[1]) * PAGE_SIZE < int(found[2])
            buttons = buttons if products else [button for button in buttons if button != "Next >"]
            return View(
                "results", instruction, products, more, elements=_by_lower(buttons, [one.asin for one in products])
            )
        price = next((at for at, part in enumerate(rest) if part.startswith("Price: ")), None)
        if "Buy Now" in buttons and price is not None:
            options = _options(rest[2 : price - 1])
            return View("item", instruction, options=options, elements=_by_lower(buttons, *options.values()))
        return View("sub", instruction, elements=_by_lower(buttons), text=_spaced(" ".join(rest)))


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


def _spaced(text: str) -> str:
    """The words in lower case, with a space between them."""
    return " ".join(word.rstrip(".") for word in _WORD.findall(text.lower()))


def named_in(words: str, phrases: Iterable[str]) -> tuple[str, ...]:
    """Those of the phrases whose words a text contains, one after the other; the text is in lower case."""
    return tuple(phrase for phrase in phrases if f" {phrase} " in f" {words} ")


def _longest(phrases: Sequence[str]) -> str:
    return max(phrases, key=len, default="")


def _end(text: str, phrase: str) -> int:
    """Where the words of a phrase end in a text that has them."""
    return f" {text} ".find(f" {phrase} ") + len(phrase)
