"""Tasks for the options of an environment; loaded once per process and shared by all its environments."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hero_envs.webshop.catalog import Catalog, World, catalog_in_memory
from hero_envs.webshop.generated import DEFAULT_PRODUCTS, generated_products
from hero_envs.webshop.goals import Goal
from hero_envs.webshop.official import check_official, differing_goals, load_official
from hero_envs.webshop.pocket import pocket_products
from hero_envs.webshop.splits import (
    GENERATED_SHARES,
    POCKET_SIZES,
    Splits,
    hashed_splits,
    official_splits,
    request_hash,
)

CATALOGS = ("pocket", "generated", "official")


@dataclass(frozen=True, slots=True)
class Source:
    """Catalog and goals to use; the fields are options of the environment."""

    catalog: str
    data_dir: str | None = None
    store_dir: str | None = None
    products: int | None = None
    difficulty: str = "medium"
    catalog_seed: int = 0
    other_things: bool = False
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
    """Load or generate the catalog, draw prices and goals, compute the splits.

    Raises:
        ValueError: The options do not fit together.
        hero_envs.webshop.products.DataError: A data file cannot be used.
    """
    world = World(_catalog(source), source.human_goals, source.price_seed, source.limit_goals)
    goals = world.goals
    if source.catalog == "pocket":
        ids = [_pocket_id(goal) for goal in goals]
        splits = hashed_splits(ids, POCKET_SIZES if len(ids) == sum(POCKET_SIZES.values()) else GENERATED_SHARES)
    elif source.catalog == "generated":
        ids = _numbered(f"{goal.asin}-{request_hash(goal)}" for goal in goals)
        splits = hashed_splits(ids, GENERATED_SHARES)
    else:
        ids = [f"{index:05d}-{goal.asin}" for index, goal in enumerate(goals)]
        splits = official_splits(goals)
        _warn_about_other_goals(source, goals)
    return Tasks(world, tuple(ids), splits, {task: index for index, task in enumerate(ids)})


def _catalog(source: Source) -> Catalog:
    if source.catalog == "pocket":
        return catalog_in_memory("pocket", pocket_products(source.catalog_seed, source.other_things))
    if source.other_things:
        raise ValueError(f"other_things=True is an option of the pocket catalog, not of catalog={source.catalog!r}.")
    if source.catalog == "generated":
        count = DEFAULT_PRODUCTS if source.products is None else source.products
        name = f"generated:{count}:{source.difficulty}:{source.catalog_seed}"
        return catalog_in_memory(name, generated_products(count, source.difficulty, source.catalog_seed))
    if source.catalog == "official":
        if source.data_dir is None:
            raise ValueError('catalog="official" needs data_dir, the folder with the official files.')
        check_official(source.data_dir, source.store_dir)
        return load_official(source.data_dir, source.products, source.store_dir)
    raise ValueError(f"catalog={source.catalog!r}: expected one of {', '.join(CATALOGS)}.")


def _warn_about_other_goals(source: Source, goals: Sequence[Goal]) -> None:
    """Warn if the goals differ from the published list of goals of the full official data."""
    path = Path(source.data_dir or "") / "human_goals.json"
    if not source.human_goals or source.products is not None or source.limit_goals != -1 or not path.is_file():
        return
    if different := differing_goals(goals, path):
        warnings.warn(
            f"The goals of this data differ from {path} at {len(different)} positions (first: {different[0]}). "
            "Results are not comparable with published ones: check that the data files are complete.",
            stacklevel=2,
        )


def _numbered(ids: Iterable[str]) -> list[str]:
    """Make ids unique: the second and later ones get a number."""
    seen: Counter[str] = Counter()
    out = []
    for task in ids:
        seen[task] += 1
        out.append(task if seen[task] == 1 else f"{task}-{seen[task]}")
    return out


def _pocket_id(goal: Goal) -> str:
    assert isinstance(goal.goal_options, dict), "pocket goals are synthetic"
    return "-".join([*goal.name.split(), *goal.goal_options.values()])
