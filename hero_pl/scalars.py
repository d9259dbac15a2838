"""Metrics with a rule for their reduction over micro-batches and ranks.

``3`` discarded turns on one rank and ``5`` on another are ``8``; a success rate of ``0.5`` over 2 episodes and ``1.0``
over 6 is ``0.875``; the largest of two maxima is the maximum. A plain number does not define its reduction, so a
metric is created by one of three functions:

    {"mine/retries": total(3), "mine/score": mean(0.5, weight=2), "mine/longest": largest(17)}

A plain number is refused: any default would be wrong for two of the three kinds, without an error on two ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, SupportsFloat, TypeAlias

from hero_pl.errors import HeroError

How: TypeAlias = Literal["mean", "sum", "max"]


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number about a part of a step; create it with :func:`mean`, :func:`total` or :func:`largest`."""

    value: SupportsFloat
    """A number, or a tensor of one element, which is read when the step is over; NaN: nothing was measured."""
    weight: float
    """Of a mean: the number of items in it, for example tokens. 1 otherwise."""
    how: How

    def __float__(self) -> float:
        """The value."""
        return float(self.value)


Scalars: TypeAlias = Mapping[str, Scalar]
"""Metrics by name."""


def mean(value: SupportsFloat, weight: float) -> Scalar:
    """A mean, share or rate.

    Args:
        value: Mean of this part; ignored if ``weight`` is 0, since nothing was measured then.
        weight: Number of items that were averaged: tokens, turns or episodes. It is the same for a percentile; over
            several parts that becomes the weighted mean of their percentiles, which is not the percentile of all.
    """
    return Scalar(value if weight else math.nan, weight, "mean")


def share(part: float, whole: float) -> Scalar:
    """``part / whole`` as a mean over ``whole`` items; not measured if ``whole`` is 0."""
    return mean(part / whole if whole else math.nan, whole)


def total(value: SupportsFloat) -> Scalar:
    """A count, or another amount that is summed over the parts of a step."""
    return Scalar(value, 1.0, "sum")


def largest(value: SupportsFloat) -> Scalar:
    """A maximum; also for a number that is the same on all ranks, such as a step counter."""
    return Scalar(value, 1.0, "max")


def add_up(parts: Sequence[Scalars]) -> dict[str, Scalar]:
    """Reduce the metrics of several parts to those of the whole. The order does not matter.

    Args:
        parts: Micro-batches of a rank, or ranks of a step. Parts in which a metric is missing or NaN are ignored.

    Returns:
        Plain numbers; NaN where no part has a value.

    Raises:
        HeroError: A metric has no rule for its reduction, or two parts have different rules.

    Example:
        >>> one, two = {"a": total(3), "b": mean(0.5, 2)}, {"a": total(5), "b": mean(1.0, 6), "c": largest(2)}
        >>> {name: float(scalar) for name, scalar in add_up([one, two]).items()}
        {'a': 8.0, 'b': 0.875, 'c': 2.0}
    """
    return {
        name: _add_up_one(name, [part[name] for part in parts if name in part])
        for name in dict.fromkeys(name for part in parts for name in part)
    }


def measured(scalars: Scalars) -> dict[str, float]:
    """The values to log: plain numbers, without metrics that were not measured."""
    values = {name: float(scalar) for name, scalar in scalars.items()}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _add_up_one(name: str, parts: Sequence[Scalar]) -> Scalar:
    for part in parts:
        if not isinstance(part, Scalar):
            raise HeroError(
                f"The metric {name!r} is {part!r}, which does not say how it adds up over micro-batches and ranks. "
                "Return total(...) for a count, mean(..., weight) for an average, or largest(...) for a maximum, all "
                "from hero_pl.scalars."
            )
    kinds = sorted({part.how for part in parts})
    if len(kinds) > 1:
        raise HeroError(f"The metric {name!r} is a {' in one part of a step and a '.join(kinds)} in another.")
    known = [(value, part.weight) for part in parts if not math.isnan(value := float(part.value))]
    if not known:
        return Scalar(math.nan, 0.0, parts[0].how)
    if kinds == ["sum"]:
        return total(sum(value for value, _ in known))
    if kinds == ["max"]:
        return largest(max(value for value, _ in known))
    if len(known) == 1:
        return mean(*known[0])  # as it is, not multiplied and divided by its weight
    whole = sum(weight for _, weight in known)
    return mean(sum(value * weight for value, weight in known) / whole, whole)
