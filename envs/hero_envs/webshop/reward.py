"""The reward of a purchase: how well the product, its options and its price meet the goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from hero_envs.webshop.colors import normalize_color
from hero_envs.webshop.fuzzy import matches
from hero_envs.webshop.goals import Goal
from hero_envs.webshop.nouns import Nouns
from hero_envs.webshop.products import Product

Components: TypeAlias = dict[str, float | bool]


def purchase_reward(
    product: Product, goal: Goal, price: float, options: Mapping[str, str], nouns: Nouns
) -> tuple[float, Components]:
    """Reward in [0, 1] and its components.

    ``r = r_type * (attributes met + options met + price met) / (attributes + options + 1)``; the components are the
    factor, the three fractions and their weights. ``r_option`` and ``w_option`` are absent if the goal has no options.

    Args:
        product: The bought product.
        goal: The goal.
        price: The drawn price of the product, in dollars.
        options: Chosen value per option name.
        nouns: Noun extractor of the type match.
    """
    type_components = match_type(product, goal, nouns)
    r_type = type_components["r_type"]
    attributes, wanted = attributes_met(product, goal.attributes), goal.goal_options
    chosen = options_met(list(options.values()), wanted)
    affordable = price <= goal.price_upper
    total = len(goal.attributes) + len(wanted) + 1
    reward = r_type * ((attributes + chosen + affordable) / total)
    components: Components = {
        "r_type": r_type,
        "r_att": attributes / len(goal.attributes) if goal.attributes else 0.0,
        "w_att": len(goal.attributes) / total,
        "query_match": type_components["query_match"],
        "category_match": type_components["category_match"],
        "title_score": type_components["title_score"],
    }
    if wanted:
        components["r_option"] = chosen / len(wanted)
        components["w_option"] = len(wanted) / total
    components["r_price"] = affordable
    components["w_price"] = 1 / total
    return float(reward), components


def match_type(product: Product, goal: Goal, nouns: Nouns) -> Components:
    """Whether the bought product is of the requested kind: a factor of 0, 0.1, 0.5 or 1."""
    query_match = product.query == goal.query
    category_match = len(_levels(product.product_category) & _levels(goal.product_category)) >= 2
    (wanted, wanted_set), (_, bought_set) = nouns.of(goal.name), nouns.of(product.title)
    title_score = len(wanted_set & bought_set) / len(wanted) if wanted else 0.2
    r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    if title_score < 0.1:
        r_type = 0.1
    if title_score == 0.0:
        r_type = 0.0
    return {
        "r_type": r_type,
        "query_match": query_match,
        "category_match": category_match,
        "title_score": title_score,
    }


def attributes_met(product: Product, wanted: Sequence[str]) -> int:
    """Number of requested attributes that the product has, in its attribute list or literally in its texts."""
    texts: tuple[str, ...] = ()
    met = 0
    for attribute in wanted:
        if any(matches(own, attribute) for own in product.attributes):
            met += 1
            continue
        texts = texts or (product.title.lower(), " ".join(product.bullets).lower(), product.description.lower())
        met += any(attribute in text for text in texts)
    return met


def options_met(chosen: Sequence[str], wanted: Sequence[str] | Mapping[str, str]) -> int:
    """Number of requested option values that were chosen; colors are compared by their first color word.

    Args:
        chosen: Chosen values; their names are not used.
        wanted: Values, or values by option name; then name and value are compared as one text.
    """
    have = [normalize_color(value) for value in chosen]
    goals = [normalize_color(item) for item in (wanted.items() if isinstance(wanted, Mapping) else wanted)]
    return sum(any(matches(own, goal) for own in have) for goal in goals)


def _levels(product_category: str) -> set[str]:
    return {level.strip() for level in product_category.split("›")}
