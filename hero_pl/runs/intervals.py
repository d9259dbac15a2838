"""Confidence intervals, without a statistics library."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

LEVEL = 0.975
"""Quantile of a two-sided 95 % interval."""
EQUAL = 1e-12
"""Spread of values that are equal but for rounding."""


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution.

    Closed forms for one and two degrees of freedom, else the expansion in ``1 / freedom`` around the normal quantile
    (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5); within 0.2 % from three degrees on.

    Args:
        probability: Between 0 and 1.
        freedom: Degrees of freedom, at least 1.

    Example:
        >>> [round(student_quantile(0.975, n), 2) for n in (1, 2, 3, 9, 1000)]
        [12.71, 4.3, 3.18, 2.26, 1.96]
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        twice = 2.0 * probability - 1.0
        return twice * math.sqrt(2.0 / (1.0 - twice * twice))
    z = statistics.NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, 1)))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean by Student's t; infinite for a single value and for equal values.

    Equal values give no estimate of the spread, so an interval of width 0 would be wrong.

    Example:
        >>> [round(x, 2) for x in mean_interval([1.0, 2.0, 3.0])]  # 2 +- 4.30 * 1 / sqrt(3)
        [-0.48, 4.48]
    """
    if len(values) < 2 or statistics.pstdev(values) <= EQUAL:
        return -math.inf, math.inf
    half = student_quantile(LEVEL, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def wilson(wins: float, count: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion (Wilson, JASA 22, 1927).

    Example:
        >>> [round(x, 3) for x in wilson(5, 10)]
        [0.237, 0.763]
    """
    if count == 0:
        return (0.0, 1.0)
    z, share = 1.959964, wins / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (max(0.0, center - half), min(1.0, center + half))


def success_interval(episodes: Iterable[tuple[str, bool]]) -> tuple[float, float]:
    """95 % Wilson interval of a success rate, for other tasks of the same kind.

    The unit is a task: further trials of the same task tell nothing about other tasks, so they make the interval no
    narrower.

    Args:
        episodes: Task id and success of each episode.

    Example:
        >>> once = [("a", True), ("b", False)]
        >>> success_interval(once) == success_interval(once * 50) == wilson(1, 2)
        True
    """
    played = list(episodes)
    tasks = len({task for task, _ in played})
    return wilson(sum(won for _, won in played) * tasks / len(played) if played else 0, tasks)
