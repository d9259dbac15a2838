"""Seeds of generated tasks: those of two splits, or of two worlds, never meet."""

from __future__ import annotations

from collections.abc import Mapping

SPLITS: Mapping[str, int] = {"train": 0, "validation": 1_000_000, "test": 2_000_000, "warmup": 3_000_000}
"""Split -> first seed."""
USUAL: Mapping[str, int] = {"train": 200, "validation": 100, "test": 200, "warmup": 200}
"""Split -> number of tasks unless an argument sets it."""
MOST_TASKS = 10_000
"""Maximum number of tasks of a split."""
WORLDS = 100
"""Number of worlds: other tasks for the same splits, for example to choose hyper-parameters."""


def seeds_of(split: str, tasks: int | None = None, world: int = 0) -> range:
    """Seeds of the tasks of a split.

    Args:
        split: A name in ``SPLITS``.
        tasks: Number of tasks; default: ``USUAL``.
        world: Another number gives other tasks.

    Raises:
        ValueError: There is no such split, or a number is out of range.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)}.")
    count = USUAL[split] if tasks is None else tasks
    if not 1 <= count <= MOST_TASKS:
        raise ValueError(f"{count} tasks or games: expected 1 to {MOST_TASKS}.")
    if not 0 <= world < WORLDS:
        raise ValueError(f"world={world}: expected 0 to {WORLDS - 1}.")
    first = SPLITS[split] + world * MOST_TASKS
    return range(first, first + count)
