"""The compact observation: one short line per page, with product names that ``click[...]`` accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hero_envs.webshop.pages import PAGE_SIZE, Page, sub_page_texts
from hero_envs.webshop.products import Product
from hero_envs.webshop.shop import Shop

MAX_CONTENT = 200
"""Number of characters shown of the text of a sub page."""


def render_compact(shop: Shop, buttons: bool = False) -> str:
    """Render the current page as one line.

    Args:
        shop: The shop.
        buttons: Also list the other clickable labels.
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
    """Map visible names to asins for a results page; a repeated title gets a number."""
    names: dict[str, str] = {}
    for row in page.rows:
        title = name = " ".join(products[row].title.lower().split())
        number = 2
        while name in names:
            name, number = f"{title} ({number})", number + 1
        names[name] = products[row].asin.lower()
    return names


def _item(product: Product, chosen: Mapping[str, str]) -> str:
    """Title, chosen options, then the first option still to choose, or the buttons to buy and leave."""
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
