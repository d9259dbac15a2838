"""A hand-made shop for the tests of the page machine."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import gymnasium as gym
import pytest

import hero_envs
from hero_envs.webshop.catalog import World, catalog_in_memory
from hero_envs.webshop.nouns import Nouns
from hero_envs.webshop.products import Product, clean_product
from hero_envs.webshop.shop import Shop

gym.register_envs(hero_envs)

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "webshop"


def entry(asin: str = "B000000001", **changes: Any) -> dict[str, Any]:
    """A raw product entry in the official schema."""
    raw = {
        "asin": asin,
        "name": "Oak Table",
        "full_description": "A table.",
        "small_description": ["Made of oak.", "Four legs."],
        "pricing": "$12.00",
        "images": ["x"],
        "product_category": "Home › Tables",
        "query": "oak tables",
        "category": "home",
        "customization_options": {"Color": [{"value": "Red"}, {"value": "Navy/Blue"}], "Size": [{"value": "L"}]},
    }
    return raw | changes


def product(asin: str = "B000000001", attributes: list[str] | None = None, human: Any = (), **changes: Any) -> Product:
    """A cleaned product with a synthetic goal."""
    instruction = {"attributes": attributes or ["solid wood"], "instruction": "find a table"}
    instruction |= {"instruction_attributes": ["solid wood"]}
    return clean_product(entry(asin, **changes), instruction, human)


def open_shop(*products: Product, **options: Any) -> Shop:
    """A shop over these products; titles' words are their nouns."""
    world = World(catalog_in_memory("test", products), human=False, price_seed=0)
    shop = Shop(world, Nouns(lambda title: title.lower().split(), "words"), rng=Random(0), **options)
    shop.reset(0)
    return shop


@pytest.fixture
def make_entry() -> Callable[..., dict[str, Any]]:
    return entry


@pytest.fixture
def make_product() -> Callable[..., Product]:
    return product


@pytest.fixture
def make_shop() -> Callable[..., Shop]:
    return open_shop


@pytest.fixture
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared WebShop fixture is not beside the repository")
    return SHARED
