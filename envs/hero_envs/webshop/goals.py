"""Goals: what the agent is asked to buy, built from the instructions of the products.

The order of random draws is part of the benchmark: with the same ``price_seed``, prices, price bounds and the order of
goals are the same on every machine.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from hero_envs.webshop.products import Product

GOAL_SEED = 233
"""Seed of the shuffle that determines the order of all goals."""
NO_BOUND = 1_000_000
"""Price bound of a goal without a price clause, in dollars."""

GoalFilter = Callable[[int, "Goal"], bool]


@dataclass(frozen=True, slots=True)
class Goal:
    """One shopping task."""

    asin: str
    category: str
    query: str
    name: str
    product_category: str
    instruction_text: str
    attributes: tuple[str, ...]
    price_upper: float
    goal_options: tuple[str, ...] | dict[str, str]
    weight: float = 1


@dataclass(frozen=True, slots=True)
class GoalSet:
    """Goals in final order, with cumulative weights for weighted draws."""

    goals: tuple[Goal, ...]
    cumulative: list[float] = field(default_factory=list)
    """Running sums of the weights with a leading 0."""

    def draw(self, rng: Random) -> int:
        """A weighted index.

        The benchmark searches the position in sums with a leading 0, so every result is one too high: the first goal
        is never drawn, and the last has the weight of the last two. This is kept for compatibility.
        """
        position = rng.uniform(0, self.cumulative[-1])
        return min(bisect.bisect_right(self.cumulative, position), len(self.cumulative) - 2)


def goal_set(goals: Iterable[Goal]) -> GoalSet:
    """Build a goal set from a list of goals.

    Raises:
        ValueError: There are no goals.
    """
    kept = tuple(goals)
    if not kept:
        raise ValueError(
            "The catalog has no goals: expected products with instructions (human goals: items_human_ins.json with "
            "instruction_attributes; synthetic goals: items_ins_v2.json with an instruction). Check that the files "
            "belong together."
        )
    return GoalSet(kept, [0.0, *np.cumsum([goal.weight for goal in kept]).tolist()])


def price_bound(price: float, rng: Random) -> tuple[str, float]:
    """Price clause of an instruction and its bound in dollars; nothing is drawn if fewer than two bounds fit."""
    candidates = [bound for bound in range(10, 1000, 10) if bound > price][:4]
    if len(candidates) < 2:
        return "", NO_BOUND
    bound = float(max(rng.sample(candidates, 2)))
    return f", and price lower than {bound:.2f} dollars", bound


def human_goals(products: Iterable[Product], prices: Sequence[float], rng: Random) -> list[Goal]:
    """One goal per human instruction that names attributes.

    Args:
        products: The whole catalog or the products with instructions, in order.
        prices: Drawn price of each of these products, in dollars.
        rng: The benchmark's random generator.
    """
    goals = []
    for product, price in zip(products, prices, strict=True):
        for row in product.instructions:
            if not row["instruction_attributes"]:
                continue
            clause, bound = price_bound(price, rng)
            wanted = row["instruction_options"]
            goals.append(
                _goal(
                    product,
                    row["instruction"].strip(".") + clause,
                    row["instruction_attributes"],
                    bound,
                    dict(wanted) if isinstance(wanted, dict) else tuple(wanted),
                )
            )
    return goals


def synthetic_goals(products: Iterable[Product], prices: Sequence[float], rng: Random) -> list[Goal]:
    """One goal per product and combination of its option values; rare attributes get more weight."""
    goals: list[Goal] = []
    for product, price in zip(products, prices, strict=True):
        if product.instruction is None:
            continue
        clause, bound = price_bound(price, rng)
        names = sorted(product.options)
        for values in itertools.product(*(product.options[name] for name in names)):
            chosen = dict(zip(names, values, strict=True))
            options = ", and ".join(f"{name}: {value}" for name, value in chosen.items())
            text = product.instruction + (f" with {options}" if options else "") + clause
            goals.append(_goal(product, text, product.instruction_attributes, bound, chosen))
    carriers = Counter(attribute for goal in goals for attribute in goal.attributes)
    return [replace(goal, weight=_weight(goal, carriers)) for goal in goals]


def order_goals(goals: list[Goal], rng: Random, filter_goals: GoalFilter | None, limit_goals: int) -> GoalSet:
    """Shuffle with the fixed seed, filter, then keep a weighted choice of ``limit_goals`` (-1 keeps all).

    Raises:
        ValueError: ``limit_goals`` asks for more goals than weighted draws can reach.
    """
    rng.seed(GOAL_SEED)
    rng.shuffle(goals)
    if filter_goals is not None:
        goals = [goal for i, goal in enumerate(goals) if filter_goals(i, goal)]
    every = goal_set(goals)
    if limit_goals == -1 or limit_goals >= len(goals):
        return every
    reachable = sum(goal.weight > 0 for goal in goals[:-1])
    if not 0 < limit_goals <= reachable:
        raise ValueError(
            f"limit_goals={limit_goals}: expected -1 (all) or 1 to {reachable} of these {len(goals)} goals."
        )
    kept: dict[int, Goal] = {}
    while len(kept) < limit_goals:
        i = every.draw(rng)
        kept.setdefault(i, goals[i])
    return goal_set(kept.values())


def _goal(
    product: Product,
    text: str,
    attributes: Sequence[str],
    bound: float,
    wanted: tuple[str, ...] | dict[str, str],
) -> Goal:
    return Goal(
        asin=product.asin,
        category=product.category,
        query=product.query,
        name=product.title,
        product_category=product.product_category,
        instruction_text=text,
        attributes=tuple(attributes),
        price_upper=bound,
        goal_options=wanted,
    )


def _weight(goal: Goal, carriers: Counter[str]) -> float:
    if not goal.attributes:
        return 0.0
    return float(np.mean([1.0 / carriers[attribute] for attribute in goal.attributes]))
