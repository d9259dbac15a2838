"""Assign goals to splits: fixed, disjoint, and the same in every process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from hero_envs.webshop.goals import Goal

Splits = Mapping[str, Sequence[int]]
"""Split name -> goal indices in task order."""

POCKET_SIZES = {"warmup": 400, "train": 250, "validation": 100, "test": 250}
GENERATED_SHARES = {"warmup": 0.2, "train": 0.5, "validation": 0.1, "test": 0.2}
SMALL_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
"""For official data with fewer goals than the ranges need (the original then uses all goals for every split)."""
OFFICIAL_BOUNDS: Mapping[str, tuple[int, int | None]] = {
    "test": (0, 500),
    "validation": (500, 1500),
    "train": (1500, None),
}
"""Goal indices of the original baselines (``validation`` is called *eval* there)."""


def official_splits(goals: Sequence[Goal]) -> Splits:
    """The original's index ranges over the shuffled goals; fractions if there are too few goals for the ranges."""
    if len(goals) > OFFICIAL_BOUNDS["train"][0]:
        return {name: range(*slice(*bounds).indices(len(goals))) for name, bounds in OFFICIAL_BOUNDS.items()}
    return hashed_splits([f"{index:05d}-{goal.asin}" for index, goal in enumerate(goals)], SMALL_SHARES)


def hashed_splits(task_ids: Sequence[str], sizes: Mapping[str, int | float]) -> Splits:
    """Splits by the order of a hash of the task ids; they depend on nothing else.

    Args:
        task_ids: Id per goal index.
        sizes: Number of tasks per split, or fractions that add up to 1.
    """
    ranked = sorted(range(len(task_ids)), key=lambda i: hashlib.sha256(task_ids[i].encode()).digest())
    splits: dict[str, Sequence[int]] = {}
    start = 0.0
    for name, size in sizes.items():
        end = start + (size * len(ranked) if isinstance(size, float) else size)
        splits[name] = ranked[round(start) : round(end)]
        start = end
    return splits


def content_hash(goal: Goal) -> str:
    """Hash of all fields of a goal, twelve hex digits."""
    return _hash(asdict(goal))[:12]


def request_hash(goal: Goal) -> str:
    """Hash of a goal without its price bound, eight hex digits."""
    return _hash([goal.asin, goal.name, goal.attributes, goal.goal_options])[:8]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
