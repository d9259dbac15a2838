"""A catalog: products, their prices and the search index; shared by all environments of a process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from random import Random

import numpy as np
from numpy.typing import NDArray

from hero_envs.webshop.goals import GoalFilter, GoalSet, human_goals, order_goals, synthetic_goals
from hero_envs.webshop.products import Product, index_text
from hero_envs.webshop.search import SearchIndex, build_postings

_REMEMBERED_QUERIES = 256


class Catalog:
    """The part of the shop that does not change during an episode.

    Args:
        name: Name of the catalog in results.
        products: Cleaned products in load order.
        row_of: Row per asin.
        index: Search over documents by ascending asin.
        row_of_document: Row per document, -1 if the document is not a product of this shop.
        ranges: ``(rows, 2)`` lowest and highest price in dollars, NaN in the second column for a fixed price.
        instructed: Rows that have human instructions.
        document_asins: Asin per document.
    """

    def __init__(
        self,
        name: str,
        products: Sequence[Product],
        row_of: Mapping[str, int],
        index: SearchIndex,
        row_of_document: NDArray[np.int32],
        ranges: NDArray[np.float64],
        instructed: Sequence[int],
        document_asins: Sequence[str] | NDArray[np.str_],
    ) -> None:
        self.name = name
        self.products = products
        self.row_of = row_of
        self.index = index
        self.row_of_document = row_of_document
        self.ranges = ranges
        self.instructed = instructed
        self.document_asins = document_asins
        self.search = lru_cache(maxsize=_REMEMBERED_QUERIES)(self._search)
        """Rows of the best products for a query, best first. Cached, because each results page repeats the query."""

    def _search(self, query: str) -> list[int]:
        rows: list[int] = self.row_of_document[self.index.search(query)].tolist()
        return [row for row in rows if row >= 0]

    def with_query(self, query: str) -> list[int]:
        """Rows of all products with this query, in load order."""
        return [row for row, product in enumerate(self.products) if product.query == query]

    def in_category(self, category: str) -> list[int]:
        """Rows of all products of this category, in load order."""
        return [row for row, product in enumerate(self.products) if product.category == category]

    def draw_prices(self, rng: Random) -> list[float]:
        """A price per product in dollars; a random number is drawn for price ranges only."""
        prices: list[float] = self.ranges[:, 0].tolist()
        for row in np.flatnonzero(~np.isnan(self.ranges[:, 1])).tolist():
            prices[row] = rng.uniform(prices[row], float(self.ranges[row, 1]))
        return prices


class World:
    """A catalog with the prices and goals that belong to one ``price_seed``.

    Args:
        catalog: The products.
        human: Use human goals instead of synthetic ones.
        price_seed: Seed of the benchmark's random generator.
        limit_goals: Keep a weighted choice of this many goals, -1 for all.
        filter_goals: ``(position in final order, goal) -> keep``.
    """

    def __init__(
        self,
        catalog: Catalog,
        human: bool,
        price_seed: int,
        limit_goals: int = -1,
        filter_goals: GoalFilter | None = None,
    ) -> None:
        self.catalog = catalog
        self.price_seed = price_seed
        rng = Random(price_seed)
        self.prices = catalog.draw_prices(rng)
        if human:
            rows = catalog.instructed
            goals = human_goals([catalog.products[r] for r in rows], [self.prices[r] for r in rows], rng)
        else:
            goals = synthetic_goals(catalog.products, self.prices, rng)
        self.goal_set: GoalSet = order_goals(goals, rng, filter_goals, limit_goals)
        self.goals = self.goal_set.goals
        self._after_goals = rng.getstate()

    def generator(self) -> Random:
        """A generator in the state after the goals were built; the original draws sessions from it."""
        rng = Random()
        rng.setstate(self._after_goals)
        return rng


def catalog_in_memory(name: str, products: Iterable[Product], indexed: Iterable[Product] | None = None) -> Catalog:
    """A catalog held in memory.

    Args:
        name: Name of the catalog in results.
        products: Cleaned products in load order.
        indexed: Products of the search index, if not ``products``.
    """
    rows = list(products)
    row_of = {product.asin: row for row, product in enumerate(rows)}
    documents = sorted(rows if indexed is None else indexed, key=lambda product: product.asin)
    return Catalog(
        name=name,
        products=rows,
        row_of=row_of,
        index=SearchIndex(build_postings(map(index_text, documents))),
        row_of_document=np.array([row_of.get(product.asin, -1) for product in documents], dtype=np.int32),
        ranges=price_ranges(rows),
        instructed=[row for row, product in enumerate(rows) if product.instructions],
        document_asins=[product.asin for product in documents],
    )


def price_ranges(products: Iterable[Product]) -> NDArray[np.float64]:
    """``(rows, 2)`` array for :class:`Catalog`."""
    pairs = [(p.pricing[0], p.pricing[1] if len(p.pricing) > 1 else np.nan) for p in products]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)
