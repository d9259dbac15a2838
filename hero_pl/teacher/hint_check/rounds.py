"""Measure wordings in rounds, so that most of the cost is not spent on those that are not taken.

The first round has a third of the turns and drops wordings that are surely worse. The second has all turns, with the
hint alone. What else is measured of a wording (its empty form, hints of other turns, wrong targets) decides whether it
may be used; this is asked of the wording that helps most, and of the next one only if that may not be used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hero_pl.teacher.hint_check.cases import Arm, Case
from hero_pl.teacher.hint_check.measure import Measured, measure, over_ranks
from hero_pl.teacher.hint_check.verdict import Judged, Kind, hopeless, judge
from hero_pl.teacher.render import HintTemplate
from hero_pl.teacher.wordings import Wording

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy

FIRST = 3
"""Every so many turns are measured in the first round."""
FIRST_ARMS = (Arm.HINT, Arm.SCAFFOLD)


class Rounds:
    """The measurement of the turns of all processes.

    Args:
        cases: Turns of this process.
        templates: The wordings.
        policy: Loaded.
    """

    def __init__(self, cases: Sequence[Case], templates: Mapping[Wording, HintTemplate], policy: Policy) -> None:
        self.cases, self.templates, self.policy = cases, dict(templates), policy
        self.done: list[Measured] = []
        """What was measured, round by round."""

    def whole(self, arms: Sequence[Arm]) -> list[Judged]:
        """Every wording in every arm, the highest mean first."""
        measured = self._measure(self.cases, list(self.templates), arms)
        return in_order([judge(measured, reading) for reading in measured.readings])

    def spared(self, arms: Sequence[Arm], own: str | None) -> list[Judged]:
        """Every wording as far as it is needed to choose one, the dropped ones last.

        Args:
            arms: What is measured of a wording before it is used.
            own: Template that is measured in any case.
        """
        first = self._measure(self.cases[::FIRST], list(self.templates), FIRST_ARMS)
        worse = hopeless([judge(first, reading) for reading in first.readings])
        dropped = {one.wording: one for one in worse if one.wording.template != own}
        tried = self._tried([wording for wording in self.templates if wording not in dropped], arms, own)
        if all(one.kind is not Kind.USABLE for one in tried):  # what helps less may be usable where the best is not
            less = [wording for wording, one in dropped.items() if one.kind is Kind.LESS]
            tried += self._tried(less, arms, own)
        again = {one.wording for one in tried}
        return [*in_order(tried), *in_order([one for wording, one in dropped.items() if wording not in again])]

    def _tried(self, wordings: Sequence[Wording], arms: Sequence[Arm], own: str | None) -> list[Judged]:
        """Wordings on all turns: with their hint, and in the other arms until one is usable, or else all of them."""
        if not wordings:
            return []
        hinted = self._measure(self.cases, wordings, (Arm.HINT,))
        readings = {reading.wording: reading for reading in hinted.readings}
        found = {wording: judge(hinted, reading) for wording, reading in readings.items()}
        others = [arm for arm in arms if arm is not Arm.HINT]
        complete: set[Wording] = set()

        def measure_rest(some: Sequence[Wording]) -> None:
            left = [wording for wording in some if wording not in complete]
            if not left:
                return
            more = self._measure(self.cases, left, others)
            for one in more.readings:
                hint = readings[one.wording]
                both = replace(one, logprobs={**hint.logprobs, **one.logprobs}, first=hint.first)
                found[one.wording] = judge(more, both)
                complete.add(one.wording)

        given = [wording for wording in wordings if wording.template == own]
        for one in in_order([one for one in found.values() if one.kind is Kind.USABLE]):
            measure_rest([one.wording, *(wording for wording in given if wording != one.wording)])
            if found[one.wording].kind is Kind.USABLE:
                break
        else:
            measure_rest(wordings)
        return [one if one.wording in complete else _untried(one) for one in found.values()]

    def _measure(self, cases: Sequence[Case], wordings: Sequence[Wording], arms: Sequence[Arm]) -> Measured:
        chosen = {wording: self.templates[wording] for wording in wordings}
        self.done.append(over_ranks(measure(cases, chosen, self.policy, arms)))
        return self.done[-1]


def in_order(judged: Sequence[Judged]) -> list[Judged]:
    """The highest mean preference over all turns first; what was not measured last."""
    return sorted(judged, key=lambda one: -one.overall.mean if one.overall.turns else math.inf)


def _untried(one: Judged) -> Judged:
    return replace(one, kind=Kind.UNTRIED) if one.kind is Kind.USABLE else one
