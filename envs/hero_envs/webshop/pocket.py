"""The pocket shop: forty products described in simple words, small enough for a model with a million parameters.

Five materials times eight categories, each in five colors and five sizes. A goal gives all four. The order of the
values differs between products, so their position contains no information.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from hero_envs.webshop.nouns import Nouns
from hero_envs.webshop.products import Product

MATERIALS = ("pine", "wool", "silk", "clay", "iron")
KINDS = ("shirt", "lamp", "chair", "bowl", "clock", "mug", "bench", "kettle")
OTHER_MATERIALS = ("brass", "cork", "linen", "glass", "stone")
OTHER_KINDS = ("jacket", "rug", "stool", "plate", "mirror", "vase", "desk", "basket")
"""Materials and categories of another shop, to see what a policy does with things that it was not trained on."""
COLORS = ("red", "blue", "green", "black", "white")
SIZES = ("tiny", "small", "medium", "large", "giant")
LOWEST_PRICE = 980
"""Lowest price in dollars; goals of products at this price or above have no price clause."""


def pocket_products(seed: int = 0, other_things: bool = False) -> Iterator[Product]:
    """The forty products.

    Args:
        seed: Seed of prices and of the order of values on each page.
        other_things: Whether they have the other categories and materials.
    """
    kinds, materials = (OTHER_KINDS, OTHER_MATERIALS) if other_things else (KINDS, MATERIALS)
    for number, (kind, material) in enumerate((k, m) for k in kinds for m in materials):
        rng = Random(f"pocket {seed} {number}")
        price = float(rng.randrange(LOWEST_PRICE, 1000))
        yield Product(
            asin=f"P{number:09d}",
            title=f"{material} {kind}",
            description=f"a {kind} of {material}",
            bullets=(f"made of {material}",),
            options={"color": _shuffled(COLORS, rng), "size": _shuffled(SIZES, rng)},
            attributes=(material,),
            query=kind,
            category=kind,
            product_category=f"shop › {kind}",
            pricing=(price,),
            price_tag=f"${price}",
            instruction=f"buy a {material} {kind}",
            instruction_attributes=(material,),
        )


def pocket_nouns() -> Nouns:
    """The category is the only noun, so a product of another category gives no reward."""
    return Nouns(lambda title: title.split()[-1:], "last-word")


def _shuffled(values: tuple[str, ...], rng: Random) -> tuple[str, ...]:
    return tuple(rng.sample(values, len(values)))
