"""Exchange texts among turns so that no turn keeps its own (a derangement), and partners differ as much as possible."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

_PASSES = 4
_PARTNERS = 64


@dataclass(frozen=True, slots=True)
class Placed:
    """A diagnosis text and its turn."""

    text: str
    env_id: str
    task_id: str
    episode: int
    """Index of the trajectory in the batch; -1 for an earlier batch."""
    turn: int
    correction: str | None = None
    """Corrected action of the turn, if it has one."""

    @property
    def bucket(self) -> int:
        """Length bucket; the length doubles from one bucket to the next."""
        return len(self.text).bit_length()


def same(taker: Placed, giver: Placed) -> bool:
    """Whether one tells what the other does: in the same words, or in other words for the same corrected action."""
    return taker.text == giver.text or (taker.correction is not None and taker.correction == giver.correction)


def mismatch(taker: Placed, giver: Placed) -> int:
    """Cost of a replacement: same content, same episode, same task, other length, in decreasing weight."""
    return (
        1000 * same(taker, giver)
        + 200 * (taker.episode == giver.episode)
        + 50 * (taker.task_id == giver.task_id)
        + abs(taker.bucket - giver.bucket)
    )


def derange(items: Sequence[Placed], rng: random.Random) -> list[int] | None:
    """A random permutation without fixed points, improved by exchanges while the :func:`mismatch` decreases.

    Args:
        items: Texts to permute.
        rng: Source of randomness.

    Returns:
        For each item the index of the item whose text it gets, or ``None`` if there are fewer than two items.
    """
    size = len(items)
    if size < 2:
        return None
    order = list(range(size))
    rng.shuffle(order)
    order.sort(key=lambda i: items[i].bucket)  # stable sort: random within a bucket
    source = [0] * size
    for place, i in enumerate(order):
        source[i] = order[(place + 1) % size]  # one cycle, hence no fixed point
    for _ in range(_PASSES):
        if not _improve(items, source, order, rng):
            break
    assert all(source[i] != i for i in range(size))
    return source


def _improve(items: Sequence[Placed], source: list[int], order: list[int], rng: random.Random) -> bool:
    """One pass of pairwise exchanges; True if the total mismatch decreased."""
    improved = False
    for i in order:
        own = mismatch(items[i], items[source[i]])
        if own == 0:
            continue
        partners = order if len(order) <= _PARTNERS else rng.sample(order, _PARTNERS)
        best, gain = i, 0
        for k in partners:
            if k == i or source[k] == i or source[i] == k:
                continue
            before = own + mismatch(items[k], items[source[k]])
            after = mismatch(items[i], items[source[k]]) + mismatch(items[k], items[source[i]])
            if before - after > gain:
                best, gain = k, before - after
        if gain:
            source[i], source[best] = source[best], source[i]
            improved = True
    return improved
