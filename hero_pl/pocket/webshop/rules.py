"""Rules for actions in WebShop, computed from the request and the pages only.

Search for the words of the request, open the product that fits best by its title and its price, choose the requested
options, buy. Whether a product has a property that its title does not name is not visible on these pages, so a purchase
that the rules call right can miss a property. Requests and titles are read as those of generated catalogs, where a
title is brand, kind of product, comma, property.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from hero_envs.webshop.actions import parse
from hero_pl.pocket.shop.rules import call
from hero_pl.pocket.webshop.pages import Listed, Request, View

Kind = Literal["right", "wrong", "wasted", "invalid"]


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

    @property
    def kinds(self) -> frozenset[str]:
        """See :class:`hero_pl.pocket.situation.Situation`."""
        return frozenset(get_args(Kind))

    @staticmethod
    def open(first_observation: str) -> Buyer | None:
        """The situation at the start; ``None`` if the text is not a request of a generated catalog, as ``text``."""
        view = View.read(first_observation)
        if view is None or view.kind != "index":
            return None
        request = Request.read(view.instruction)
        return Buyer(request, view) if request.kind else None

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
        return max(self.listed, key=lambda one: one.rank(self.request), default=None)

    def _fits(self, product: Listed) -> bool:
        """Whether it is of the requested kind and within the price bound."""
        return product.rank(self.request)[:2] == (True, True)

    def _better(self) -> bool:
        """Whether a listed product fits better than the open one."""
        mine, best = self._at(self.opened), self._best()
        return bool(mine and best and best.rank(self.request) > mine.rank(self.request))

    def _at(self, asin: str) -> Listed | None:
        """The listed product with this asin, in lower case."""
        return next((one for one in self.listed if one.asin.lower() == asin), None)

    def _missing(self) -> list[str]:
        """Requested option values that are not chosen; of two that the request names, the longer one."""
        missing = []
        for name, values in self.view.options.items():
            wanted = max(filter(self.request.names, values), key=len, default=None)
            if wanted is not None and self.chosen.get(name) != wanted:
                missing.append(wanted)
        return missing

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
            return "right" if asked and taken.rank(self.request) == asked.rank(self.request) else "wrong"
        if self.view.kind == "item":
            if value in self._missing():
                return "wrong" if self._better() else "right"
            return "wrong" if value == "buy now" or self._option(value) else "wasted"
        return "wasted"

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
            return replace(known, opened=value, chosen={})
        if self.view.kind == "item" and (option := self._option(value)):
            return replace(known, chosen={**self.chosen, option: value})
        return known
