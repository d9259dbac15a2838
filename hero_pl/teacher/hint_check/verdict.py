"""Judge a wording from its measurement: values with intervals, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from hero_pl.runs.intervals import LEVEL, student_quantile
from hero_pl.teacher.hint_check.cases import Arm
from hero_pl.teacher.hint_check.measure import Flags, Measured, Reading, Values
from hero_pl.teacher.wordings import Wording

NOTHING = 0.25
"""A smaller preference (a factor of 1.7 in the probability) counts as no effect."""

MARGIN = 0.05
"""A wording is not dropped for a smaller difference of the preference."""


class Kind(StrEnum):
    """The verdicts; ``docs/hints.md`` says what to do about each."""

    USABLE = "usable"
    ANY_HINT = "any hint does it"
    NOTHING = "obeys nothing"
    SCAFFOLD = "destroyed by its own scaffold"
    HARMFUL = "harmful"
    LESS = "helps less than another"
    UNTRIED = "helps, not tried further"
    UNRESOLVED = "not resolved"
    REFUSED = "refused by the chat template"


@dataclass(frozen=True, slots=True)
class Change:
    """Mean preference over turns, with a 95 % interval.

    The preference for a reply is ``(p - p0) / (p + p0)``, with ``p`` its probability with the hint and ``p0`` without:
    1 if only the hint makes it likely, 0 if nothing changes, -1 if the hint rules it out. It is ``tanh`` of half the
    change of the log-probability, so that it means the same for short and long replies, and no single turn decides.
    """

    mean: float
    low: float
    high: float
    turns: int
    episodes: int

    @staticmethod
    def of(pairs: Iterable[tuple[int, float]]) -> Change:
        """Of ``(episode, change of the log-probability)`` per turn.

        Turns of one episode are not independent, so the standard error is that of a mean over clusters (Cameron and
        Miller, Journal of Human Resources 50, 2015, with the factor ``E / (E - 1)``), and the quantile is Student's
        with ``E - 1`` degrees of freedom. A single episode has an infinite interval.
        """
        changes = [(episode, math.tanh(change / 2)) for episode, change in pairs]
        if not changes:
            return Change(math.nan, -math.inf, math.inf, 0, 0)
        mean = math.fsum(value for _, value in changes) / len(changes)
        clusters: dict[int, float] = {}
        for episode, value in changes:
            clusters[episode] = clusters.get(episode, 0.0) + value - mean
        count = len(clusters)
        if count < 2:
            return Change(mean, -math.inf, math.inf, len(changes), count)
        error = math.sqrt(count / (count - 1) * math.fsum(s * s for s in clusters.values())) / len(changes)
        half = student_quantile(LEVEL, count - 1) * error
        return Change(mean, mean - half, mean + half, len(changes), count)

    def __str__(self) -> str:
        if not self.turns:
            return "-"
        if math.isinf(self.low):
            return f"{self.mean:+.2f} [one episode]"
        low, high = f"{self.low:+.2f}", f"{self.high:+.2f}"
        return f"{self.mean:+.2f} [all alike]" if low == high else f"{self.mean:+.2f} [{low}, {high}]"


@dataclass(frozen=True, slots=True)
class Judged:
    """Result for one wording."""

    wording: Wording
    kind: Kind
    overall: Change
    """Of the wanted reply by the hint, over blamed turns and turns called right."""
    blamed: Change
    right: Change
    obeyed: Change
    """Of a wrong target by the hint that names it."""
    shuffled: Change
    """Of the wanted reply on blamed turns by another turn's hint."""
    content: Change
    """Of the wanted reply on blamed turns by its own hint as against another turn's."""
    scaffold: Change
    """Of the wanted reply by the wording with nothing in it."""
    feedback: Change
    probability: dict[str, float]
    """Mean probability of the wanted reply (of the wrong one under ``wrong target``) on blamed turns by arm, and on
    turns called right (``right``)."""
    gain: dict[str, float]
    """Mean change of the log-probability by the hint, in nats per reply, on ``blamed`` and ``right`` turns."""
    first: dict[str, float]
    """Share of the ``blamed`` and the ``right`` turns on which the hint makes the wanted reply the most likely one."""
    refused: str = ""


def judge(measured: Measured, reading: Reading) -> Judged:
    """Judge one wording, compared with no hint."""
    every = range(len(measured.episodes))
    blamed, right = [i for i in every if measured.blamed[i]], [i for i in every if not measured.blamed[i]]

    def change(arm: Arm, turns: Sequence[int], before: Values = measured.bare) -> Change:
        pairs = ((i, before[i], reading.logprobs.get(arm, (None,) * len(every))[i]) for i in turns)
        return Change.of((measured.episodes[i], y - x) for i, x, y in pairs if x is not None and y is not None)

    overall = change(Arm.HINT, every)
    shuffled, own = change(Arm.SHUFFLED, blamed), change(Arm.HINT, blamed)
    obeyed, scaffold = change(Arm.WRONG, blamed, measured.bare_wrong), change(Arm.SCAFFOLD, every)
    content = change(Arm.HINT, blamed, reading.logprobs.get(Arm.SHUFFLED, (None,) * len(every)))
    probability = {arm.value: _mean_probability(reading.logprobs[arm], blamed) for arm in reading.logprobs}
    probability["right"] = _mean_probability(reading.logprobs[Arm.HINT], right)
    kind = _kind(own, overall, obeyed, content, scaffold)
    return Judged(
        reading.wording,
        Kind.REFUSED if reading.refused else kind,
        overall,
        own,
        change(Arm.HINT, right),
        obeyed,
        shuffled,
        content,
        scaffold,
        change(Arm.FEEDBACK, blamed),
        probability,
        {"blamed": _mean_gain(measured, reading, blamed), "right": _mean_gain(measured, reading, right)},
        {"blamed": _share(reading.first, blamed), "right": _share(reading.first, right)},
        reading.refused,
    )


def hopeless(judged: Sequence[Judged]) -> list[Judged]:
    """Wordings that do harm, or surely help less than another one; the latter with that as their verdict."""
    least = max([0.0, *(one.overall.low - MARGIN for one in judged)])
    worse = [one for one in judged if one.overall.high < least]
    return [one if one.kind in (Kind.SCAFFOLD, Kind.HARMFUL) else replace(one, kind=Kind.LESS) for one in worse]


def _kind(own: Change, overall: Change, obeyed: Change, content: Change, scaffold: Change) -> Kind:
    if overall.high < 0.0 or own.high < 0.0:
        return Kind.SCAFFOLD if scaffold.high < 0.0 else Kind.HARMFUL
    if own.low > 0.0 and overall.low > 0.0:
        return Kind.USABLE if content.low > 0.0 or not content.turns else Kind.ANY_HINT
    if own.turns and own.high < NOTHING and obeyed.high < NOTHING:
        return Kind.NOTHING
    return Kind.UNRESOLVED


def _mean_probability(values: Values, turns: Sequence[int]) -> float:
    known = [math.exp(value) for i in turns if (value := values[i]) is not None]
    return math.fsum(known) / len(known) if known else math.nan


def _share(flags: Flags, turns: Sequence[int]) -> float:
    known = [flag for i in turns if (flag := flags[i]) is not None]
    return sum(known) / len(known) if known else math.nan


def _mean_gain(measured: Measured, reading: Reading, turns: Sequence[int]) -> float:
    pairs = [(measured.bare[i], reading.logprobs[Arm.HINT][i]) for i in turns]
    known = [after - before for before, after in pairs if before is not None and after is not None]
    return math.fsum(known) / len(known) if known else math.nan


def bare_probability(measured: Measured, blamed: bool, wrong: bool = False) -> float:
    """Mean probability without hint of the wanted (or wrong) reply, on blamed turns or on those called right."""
    turns = [i for i, flag in enumerate(measured.blamed) if flag is blamed]
    return _mean_probability(measured.bare_wrong if wrong else measured.bare, turns)
