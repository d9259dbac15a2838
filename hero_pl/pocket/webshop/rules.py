"""Rules for actions in WebShop, computed from the request and the pages only.

Search for the words of the request, open the product that fits best, choose the requested options, buy. A product whose
page turns out to lack a requested option is left if another one may have it. How well a product fits is what was seen
of it: kind, price and property in the title, options on its page, properties on its description and its features. These
need not name all properties, so a purchase that the rules call right can miss one. Requests and titles are read as
those of generated catalogs, where a title is brand, kind of product, comma, property.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from hero_envs.webshop.actions import parse
from hero_pl.pocket.shop.rules import call
from hero_pl.pocket.webshop.pages import Listed, Request, View, named_in

Kind = Literal["right", "wrong", "wasted", "invalid"]
TELLING = ("description", "features")
"""Pages that can name properties of a product."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the pages of a product showed."""

    lacking: int = 0
    """Number of requested options that it does not come in."""
    attributes: frozenset[str] = frozenset()
    """Requested properties that its description or features name."""
    looked: frozenset[str] = frozenset()
    """Which of ``TELLING`` were opened."""


@dataclass(frozen=True, slots=True)
class Buyer:
    """What is known before a turn (a :class:`hero_pl.pocket.situation.Situation`)."""

    request: Request
    view: View
    listed: tuple[Listed, ...] = ()
    """Products of the last results page."""
    query: str = ""
    """The last search."""
    opened: str = ""
    """Asin of the product whose page is open, in lower case."""
    chosen: Mapping[str, str] = field(default_factory=dict)
    """Name of an option -> the value that was clicked on its page."""
    known: Mapping[str, Known] = field(default_factory=dict)
    """Products whose pages were opened, by asin in lower case."""

    @property
    def kinds(self) -> frozenset[str]:
        """See :class:`hero_pl.pocket.situation.Situation`."""
        return frozenset(get_args(Kind))

    @staticmethod
    def open(first_observation: str) -> Buyer | None:
        """The situation at the start; ``None`` if the text is no start page with a request of a generated catalog."""
        view = View.read(first_observation)
        request = Request.read(view.instruction) if view and view.kind == "index" else None
        return Buyer(request, view) if view and request else None

    def right(self) -> dict[str, Any]:
        """The next step by the rules."""
        name, value = self._step()
        return call("search" if name == "search" else "item", value)

    def action(self) -> str:
        """The next step by the rules, in the shop's own format."""
        name, value = self._step()
        return f"{name}[{value}]"

    def hasty(self) -> str | None:
        """What a hasty customer clicks here: the first product, or ``Buy Now`` before all options are chosen."""
        best = self._best()
        if self.view.kind == "results" and best is not None and best != self.listed[0]:
            return self.listed[0].asin
        return "Buy Now" if self.view.kind == "item" and self._missing() else None

    def _step(self) -> tuple[str, str]:
        """Name and argument of the next step; an element is spelled as the page shows it, so that it can be copied."""
        if self.view.kind == "item":
            if self._better():
                return "click", "< Prev"
            return "click", next(iter(self._missing()), "Buy Now")
        if self.view.kind == "sub":
            return "click", "< Prev"
        if self.view.kind == "results":
            best = self._best()
            if best is not None and (self._fits(best) or (not self.view.more and self.query == self.request.query)):
                return "click", best.asin
            if self.view.more:
                return "click", "Next >"
        return "search", self.request.query

    def _best(self) -> Listed | None:
        """The first of the listed products that fit best."""
        return max(self.listed, key=self._rank, default=None)

    def _rank(self, product: Listed) -> tuple[bool, bool, int, int]:
        """Kind and price, requested properties less options that it lacks, and at a tie the fewer that it lacks."""
        known = self._known(product.asin.lower())
        met = known.attributes | {product.attribute} & set(self.request.attributes)
        return *product.fits(self.request), len(met) - known.lacking, -known.lacking

    def _known(self, asin: str) -> Known:
        return self.known.get(asin, Known())

    def _fits(self, product: Listed) -> bool:
        """Whether it is of the requested kind and within the price bound."""
        return product.fits(self.request) == (True, True)

    def _better(self) -> bool:
        """Whether a listed product fits better than the open one."""
        mine, best = self._at(self.opened), self._best()
        return bool(mine and best and self._rank(best) > self._rank(mine))

    def _at(self, asin: str) -> Listed | None:
        """The listed product with this asin, in lower case."""
        return next((one for one in self.listed if one.asin.lower() == asin), None)

    def _missing(self) -> list[str]:
        """Requested values that the open page offers and that are not chosen."""
        offered, wanted = self.view.options, self.request.options
        return [
            wanted[name]
            for name, values in offered.items()
            if wanted.get(name) in values and self.chosen.get(name) != wanted[name]
        ]

    def judge(self, action: str, text: str, reply: str) -> tuple[str, Mapping[str, Any] | None]:
        """The diagnosis of a turn, and the right step if the turn took another one."""
        name, value, _ = parse(action)
        said = value if value and name in ("search", "click") else (action or text).strip() or "nothing"
        kind = self._kind(name, value, reply)
        return f"{kind}: {said}", None if kind == "right" else self.right()

    def _kind(self, name: str | None, value: str | None, reply: str) -> Kind:
        step, right = self._step()
        if (name, value) == (step, right.lower()):
            return "right"
        if name == "search" and value:
            return self._search_kind(reply)
        if name != "click" or value is None or value not in self.view.elements:
            return "invalid"
        if self.view.kind == "results":
            taken, asked = self._at(value), self._at(right.lower())
            if taken is None:
                return "wasted"
            return "right" if asked and self._rank(taken) == self._rank(asked) else "wrong"
        if self.view.kind == "item":
            return self._item_kind(value)
        return "wasted"

    def _item_kind(self, value: str) -> Kind:
        """Of a click on the page of a product that is not the next step."""
        if value in self._missing():
            return "wrong" if self._better() else "right"
        known, product = self._known(self.opened), self._at(self.opened)
        if value in TELLING and value not in known.looked and product is not None:
            unsure = set(self.request.attributes) - known.attributes - {product.attribute}
            return "right" if unsure and not self._better() else "wasted"
        option = self._option(value)
        wanted = self.request.options.get(option, value) if option else value
        return "wrong" if value == "buy now" or value != wanted else "wasted"

    def _search_kind(self, reply: str) -> Kind:
        """A search is right if it finds a product that fits where none was in sight."""
        if any(map(self._fits, self.listed)):
            return "wasted"
        found = View.read(reply)
        return "right" if found and any(map(self._fits, found.products)) else "wrong"

    def _option(self, value: str) -> str | None:
        """The option that a click on this value changes."""
        return next((name for name, values in self.view.options.items() if value in values), None)

    def after(self, action: str, reply: str) -> Buyer:
        """The situation after a turn; a reply that is no page changes nothing."""
        name, value, _ = parse(action)
        view = View.read(reply)
        if view is None or not value or name not in ("search", "click"):
            return self
        known = replace(self, view=view)
        if name == "search":
            return replace(known, listed=view.products, query=value, opened="", chosen={})
        if view.kind in ("index", "results"):
            return replace(known, listed=view.products, opened="", chosen={})
        if view.kind == "item" and self.view.kind == "results":
            wanted = self.request.options.items()
            lacking = sum(option not in view.options.get(name, ()) for name, option in wanted)
            return replace(known, opened=value, chosen={})._learn(value, lacking=lacking)
        if self.view.kind == "item" and value in TELLING and view.kind == "sub":
            mine, named = self._known(self.opened), named_in(view.text, self.request.attributes)
            return known._learn(self.opened, attributes=mine.attributes.union(named), looked=mine.looked | {value})
        if self.view.kind == "item" and (option := self._option(value)):
            return replace(known, chosen={**self.chosen, option: value})
        return known

    def _learn(self, asin: str, **facts: Any) -> Buyer:
        """With more facts about a product."""
        return replace(self, known={**self.known, asin: replace(self._known(asin), **facts)})
