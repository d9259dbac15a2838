"""Which episodes to play, and with which randomness."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class SeedPurpose(IntEnum):
    """What seeds are for: the first entry of their entropy, so that no two purposes share randomness."""

    TRAIN = 1
    EVALUATE = 2
    RESAMPLE = 3
    """Tasks and episodes in place of groups that the objective rejects."""
    REFLECT = 4
    """Repeated questions of a reflector."""


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
        entropy: Numbers from 0, the first one a :class:`SeedPurpose`.
        count: How many.
    """
    state = np.random.SeedSequence(entropy).generate_state(count, np.uint32)
    return [int(x) for x in state]
