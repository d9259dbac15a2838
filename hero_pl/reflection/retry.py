"""A second question after an unusable answer: when it is asked, and which answer counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hero_pl.types import Reflection

OnInvalid = Literal["skip", "retry"]

WARMER = 0.2
"""Added to the temperature with every further question: the same greedy question would get the same answer."""
RETRIED = ("retried", 0)
"""Issue that counts one further question."""


def incomplete(reflection: Reflection, window: tuple[int, int]) -> bool:
    """Whether a turn of the window has no usable diagnosis."""
    return not all(reflection.diagnoses[window[0] - 1 : window[1]])


def better_of(first: Reflection, second: Reflection) -> Reflection:
    """The answer that covers more turns, the earlier one on a tie; tokens and questions of both are counted."""
    better = second if sum(map(bool, second.diagnoses)) > sum(map(bool, first.diagnoses)) else first
    asked = first.issues.count(RETRIED) + 1
    issues = tuple(issue for issue in better.issues if issue != RETRIED) + (RETRIED,) * asked
    return replace(better, issues=issues, tokens=first.tokens + second.tokens)
