"""The pocket shop: forty products in plain words, small enough for a model with a million parameters.

Five materials times eight kinds of things, each in five colors and five sizes. A goal names all four; the order in
which a product shows its values changes from product to product, so positions say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from hero_envs.webshop.nouns import Nouns
from hero_envs.webshop.products import Product

MATERIALS = ("pine", "wool", "silk", "clay", "iron")
KINDS = ("shirt", "lamp", "chair", "bowl", "clock", "mug", "bench", "kettle")
COLORS = ("red", "blue", "green", "black", "white")
SIZES = ("tiny", "small", "medium", "large", "giant")
LOWEST_PRICE = 980
"""In dollars; from here on the goals carry no price clause."""


def pocket_products(seed: int = 0) -> Iterator[Product]:
    """The forty products.

    Args:
        seed: Order of the values on each page and the prices.
    """
    for number, (kind, material) in enumerate((k, m) for k in KINDS for m in MATERIALS):
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
    """The kind is the only noun, so a thing of another kind is worth nothing whatever it is made of."""
    return Nouns(lambda title: title.split()[-1:], "last-word")


def _shuffled(values: tuple[str, ...], rng: Random) -> tuple[str, ...]:
    return tuple(rng.sample(values, len(values)))
