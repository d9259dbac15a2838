"""Specs of episodes, and their seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class SeedPurpose(IntEnum):
    """The purpose of seeds: the first entry of their entropy, so that two purposes do not share randomness."""

    TRAIN = 1
    EVALUATE = 2
    RESAMPLE = 3
    """Tasks and episodes that replace groups that the objective rejects."""
    REFLECT = 4
    """Retries of a reflector."""


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """One episode to play."""

    task_id: str
    group: int
    seed: int


def derive_seeds(*entropy: int, count: int) -> list[int]:
    """Seeds that depend on all of ``entropy``.

    They are 32-bit numbers, so two may be equal: with 10 000 of them the chance is about 1 %.

    Args:
        entropy: Non-negative numbers, the first one a :class:`SeedPurpose`.
        count: Number of seeds.
    """
    state = np.random.SeedSequence(entropy).generate_state(count, np.uint32)
    return [int(x) for x in state]


class TaskStream:
    """A sized stream of step numbers. The tasks of a step depend on the seed and the step number only.

    Args:
        tasks: Number of tasks.
        per_step: Tasks per step, over all processes.
        seed: Seed of the order.
    """

    def __init__(self, tasks: int, per_step: int, seed: int) -> None:
        self.tasks, self.per_step, self.seed = tasks, per_step, seed

    def __len__(self) -> int:
        return max(1, self.tasks // self.per_step)

    def __iter__(self) -> Iterator[int]:
        yield from range(len(self))

    def batch(self, step: int) -> list[int]:
        """Task numbers of a step: a new permutation for each pass, no task twice in one pass."""
        first = step * self.per_step
        places = [divmod(position, self.tasks) for position in range(first, first + self.per_step)]
        orders = {turn: np.random.default_rng([self.seed, turn]).permutation(self.tasks) for turn, _ in places}
        return [int(orders[turn][place]) for turn, place in places]
