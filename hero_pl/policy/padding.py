"""Which sequences are padded to one length and run in one pass."""

from __future__ import annotations

from collections.abc import Sequence

PADDING, PADDING_SHARE = 512, 0.2
"""Padding that a pass may have, in tokens or as a share of the pass: a separate pass costs more than some padding."""


def alike(lengths: Sequence[int], most: int | None = None) -> list[list[int]]:
    """Group sequences that are padded to one length; returns the numbers of the sequences.

    Args:
        lengths: Lengths of the sequences.
        most: Largest number of tokens per group with padding, unless it has one sequence; ``None``: no limit.
    """
    groups: list[list[int]] = []
    waste = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups:
            longest = lengths[groups[-1][0]]
            size, more = longest * (len(groups[-1]) + 1), waste + longest - lengths[i]
            if (most is None or size <= most) and more <= max(PADDING, PADDING_SHARE * size):
                groups[-1].append(i)
                waste = more
                continue
        groups.append([i])
        waste = 0
    return [sorted(group) for group in groups]
