"""The compact observation: one short line per page, products named by words that ``click[...]`` accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hero_envs.webshop.pages import PAGE_SIZE, Page, sub_page_texts
from hero_envs.webshop.products import Product
from hero_envs.webshop.shop import Shop

MAX_CONTENT = 200
"""Characters of a sub page's text that are shown."""


def render_compact(shop: Shop, buttons: bool = False) -> str:
    """The current page in one line.

    Args:
        shop: The shop.
        buttons: Also list the clickable labels that the line does not offer.
    """
    page = shop.page
    catalog = shop.world.catalog
    if page.kind == "index":
        line = f"find: {shop.session.goal.instruction_text}"
    elif page.kind == "results":
        line = f"results: {' | '.join(link_names(page, catalog.products)) or 'none'}"
        if page.number * PAGE_SIZE < page.total:
            line += " ; next >"
    elif page.kind == "item":
        line = _item(shop.product(), shop.session.options)
    elif page.kind == "sub":
        line = f"{page.sub}: {_cut(_content(shop.product(), page.sub))} ; < prev"
    else:
        line = "done"
    if buttons and page.kind not in ("index", "done"):
        shown = line.lower()
        rest = [label for label, element in page.clickables.items() if element.kind == "button" and label not in shown]
        line += f" ; [{' | '.join(rest)}]"
    return line


def link_names(page: Page, products: Sequence[Product]) -> dict[str, str]:
    """Visible name -> asin for the products of a results page; a title that stands there twice gets a number."""
    names: dict[str, str] = {}
    for row in page.rows:
        title = name = " ".join(products[row].title.lower().split())
        number = 2
        while name in names:
            name, number = f"{title} ({number})", number + 1
        names[name] = products[row].asin.lower()
    return names


def _item(product: Product, chosen: Mapping[str, str]) -> str:
    """Title, what is chosen, then the first open choice or the way out."""
    parts = [" ".join(product.title.lower().split())]
    parts += [f"{group} {value}" for group, value in chosen.items()]
    for group, values in product.options.items():
        if group not in chosen and values:
            return " ; ".join([*parts, f"{group}: {' | '.join(values)}"])
    return " ; ".join([*parts, "buy now"])


def _content(product: Product, sub: str) -> str:
    return " | ".join(" ".join(text.split()) for text in sub_page_texts(product, sub)) or "none"


def _cut(text: str) -> str:
    if len(text) <= MAX_CONTENT:
        return text
    return f"{text[:MAX_CONTENT]}… [{len(text) - MAX_CONTENT} more characters]"
