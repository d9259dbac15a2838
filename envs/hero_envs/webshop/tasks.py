"""From the options of the environment to its tasks; opened once per process and shared by all environments in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from hero_envs.webshop.catalogue import World, catalogue_in_memory
from hero_envs.webshop.goals import Goal
from hero_envs.webshop.pocket import pocket_products
from hero_envs.webshop.splits import (
    POCKET_SIZES,
    Splits,
    hashed_splits,
)

CATALOGUES = ("pocket", "generated", "official")


@dataclass(frozen=True, slots=True)
class Source:
    """Which catalogue and which goals: the fields are options of the environment."""

    catalogue: str
    data_dir: str | None = None
    products: int | None = None
    difficulty: str = "medium"
    catalogue_seed: int = 0
    human_goals: bool = False
    price_seed: int = 0
    limit_goals: int = -1


@dataclass(frozen=True, slots=True)
class Tasks:
    """Goals with ids and splits."""

    world: World
    ids: tuple[str, ...]
    """Task id per goal index."""
    splits: Splits
    index_of: Mapping[str, int]


@lru_cache(maxsize=4)
def open_tasks(source: Source) -> Tasks:
    """Load or generate the catalogue, draw prices and goals, cut the splits.

    Raises:
        ValueError: The options do not fit together.
        hero_envs.webshop.products.DataError: A data file cannot be used.
    """
    if source.catalogue == "pocket":
        world = World(catalogue_in_memory("pocket", pocket_products(source.catalogue_seed)), False, source.price_seed)
        ids = tuple(map(_pocket_id, world.goals))
        splits = hashed_splits(ids, POCKET_SIZES)
    else:
        raise ValueError(f"catalogue={source.catalogue!r}: expected one of {', '.join(CATALOGUES)}.")
    return Tasks(world, ids, splits, {task: index for index, task in enumerate(ids)})


def _pocket_id(goal: Goal) -> str:
    assert isinstance(goal.goal_options, dict), "pocket goals are synthetic"
    return "-".join([*goal.name.split(), *goal.goal_options.values()])
