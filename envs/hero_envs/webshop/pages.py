"""The five kinds of pages as sequences of text pieces, and the two observation formats of the original environment.

A piece is ``(kind, text)``. Pages contain only the text that remains after the original's templates and HTML parser:
empty pieces are removed, and pieces of white space become one space or are removed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from hero_envs.webshop.products import Product

TEXT, BUTTON, OPTION, LINK = "text", "button", "option", "link"
PAGE_SIZE = 10
ACTIONS_HEADING = "\nAvailable actions: "
"""What separates a page from the list of its actions, with ``show_available_actions``."""
SUB_PAGES = {"description": "Description", "features": "Features", "reviews": "Reviews", "attributes": "Attributes"}
_HTML_BLANKS = " \t\n\x0c\r"
_TOJSON = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027"})

Piece = tuple[str, str]


class Element(NamedTuple):
    """A clickable element."""

    kind: str
    """``button``, ``link`` or ``option``."""
    target: str = ""
    """Name of the option group, or asin of the product."""


_BUTTON = Element(BUTTON)


@dataclass(frozen=True, slots=True)
class Page:
    """A page at the time it was built."""

    kind: str
    """``index``, ``results``, ``item``, ``sub`` or ``done``."""
    url: str
    pieces: Sequence[Piece]
    clickables: Mapping[str, Element]
    """Lower-case label -> element, in the original's order."""
    rows: Sequence[int] = ()
    """Catalog rows shown on a results page."""
    number: int = 0
    """Number of a results page."""
    total: int = 0
    """Number of results."""
    sub: str = ""
    """Lower-case name of a sub page."""
    visited: Collection[str] = field(default_factory=frozenset)
    """Asins opened since the last index page."""

    @property
    def has_search_bar(self) -> bool:
        """Whether the page shows a search bar: only the index page does, but searching works everywhere."""
        return self.kind == "index"


def index_page(url: str, instruction: str) -> Page:
    """The start page."""
    pieces = [(TEXT, "WebShop"), (TEXT, "Instruction: "), *_pieces((TEXT, instruction)), (BUTTON, "Search")]
    return Page("index", url, pieces, {"search": _BUTTON})


def results_page(
    url: str,
    instruction: str,
    number: int,
    total: int,
    rows: Sequence[int],
    products: Sequence[Product],
    visited: Collection[str],
) -> Page:
    """A page with at most ten products; ``rows`` and ``products`` are those of this page."""
    pieces = [*_head(instruction), (TEXT, f"Page {number} (Total results: {total})")]
    buttons = ["Back to Search", *(["< Prev"] if number > 1 else []), "Next >"]
    pieces += [(BUTTON, label) for label in buttons[1:]]
    clickables = {label.lower(): _BUTTON for label in buttons}
    for product in products:
        pieces += _pieces((LINK, product.asin), (TEXT, product.title), (TEXT, product.price_tag))
        clickables[product.asin.lower()] = Element(LINK, product.asin)
    return Page("results", url, pieces, clickables, rows=rows, number=number, total=total, visited=visited)


def item_page(url: str, instruction: str, product: Product, show_attributes: bool) -> Page:
    """The page of one product with its options."""
    pieces = [*_head(instruction), (BUTTON, "< Prev")]
    labels = ["Description", "Features", "Reviews", *(["Attributes"] if show_attributes else []), "Buy Now"]
    clickables = {label.lower(): _BUTTON for label in ("Back to Search", "< Prev", *labels)}
    for group, values in product.options.items():
        pieces += _pieces((TEXT, group), *((OPTION, value) for value in values))
        for value in values:
            clickables[value] = Element(OPTION, group)
    pieces += _pieces((TEXT, product.title), (TEXT, f"Price: {product.price_tag}"), (TEXT, "Rating: N.A."))
    pieces += [(BUTTON, label) for label in labels]
    return Page("item", url, pieces, clickables)


def sub_page(url: str, instruction: str, product: Product, sub: str) -> Page:
    """Description, features, reviews (always empty) or attributes of a product."""
    pieces = [
        *_head(instruction),
        (BUTTON, "< Prev"),
        *_pieces(*((TEXT, text) for text in sub_page_texts(product, sub))),
    ]
    clickables = {"back to search": _BUTTON, "< prev": _BUTTON}
    return Page("sub", url, pieces, clickables, sub=sub)


def sub_page_texts(product: Product, sub: str) -> list[str]:
    """Content of a sub page, one text per element."""
    if sub == "description":
        return [product.description]
    if sub == "features":
        return [f" {bullet}" for bullet in product.bullets]
    if sub == "attributes":
        texts = [f" {attribute}" for attribute in product.attributes]
        return [*texts, product.category, product.query, product.product_category]
    return []


def done_page(url: str, asin: str, options: Mapping[str, str], reward: float) -> Page:
    """The page after a purchase; it has no clickable elements."""
    chosen = json.dumps(dict(options), sort_keys=True).translate(_TOJSON)
    texts = [
        "Thank you for shopping with us!",
        "Your code: ",
        "None",
        " (Paste it in your MTurk interface.)",
        "Purchased",
    ]
    texts += ["asin", asin, "options", chosen, "attrs", "None", "category", "None", "query", "None"]
    texts += ["product category", "None", "Target", "asin", "options", "attrs", "price upper", "instuction text"]
    texts += ["category", "product category", "query", "Goal ", "None", "Reward"]
    texts += ["Your score (min 0.0, max 1.0)", str(reward), "Reward Details ", "None"]
    return Page("done", url, [(TEXT, text) for text in texts], {})


def render_text(page: Page) -> str:
    """The plain format: stripped pieces joined by `` [SEP] ``."""
    return " [SEP] ".join([text.strip() for _, text in page.pieces])


def render_text_rich(page: Page) -> str:
    """The format with marked buttons; chosen options and visited products are marked as clicked."""
    lines: list[str] = []
    notes: list[str] = []
    for kind, text in page.pieces:
        if kind == TEXT:
            lines.append(text)
        elif kind == BUTTON:
            lines.append(f"[button] {text} [button_]")
        elif kind == LINK:
            clicked = "clicked " if text in page.visited else ""
            lines.append(f"\n[{clicked}button] {text} [{clicked}button_]")
        elif f'"{text}"' in page.url:
            lines.append(f"  [clicked button] {text} [clicked button_]")
            notes.append(f"You have clicked {text}.")
        else:
            lines.append(f"  [button] {text} [button_]")
    return "".join(f"{line}\n" for line in [*reversed(notes), *lines])


def _head(instruction: str) -> list[Piece]:
    return [(TEXT, "Instruction:"), *_pieces((TEXT, instruction)), (BUTTON, "Back to Search")]


def _pieces(*pieces: Piece) -> Iterable[Piece]:
    return [(kind, kept) for kind, text in pieces if (kept := _shrink(text))]


@lru_cache(maxsize=1 << 14)
def _shrink(text: str) -> str:
    if text.strip(_HTML_BLANKS):
        return text
    return "" if "\n" in text else text[:1] and " "
