"""Specs of episodes, and their seeds."""

from __future__ import annotations

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
