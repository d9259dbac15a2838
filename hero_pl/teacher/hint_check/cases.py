"""Turns for measuring hints: the content of each hint, and the replies to score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeAlias

from hero_pl.chat.dialect import Dialect
from hero_pl.reflection.target import target_reply
from hero_pl.teacher.render import NOTHING
from hero_pl.types import Diagnosis, Reflection, Trajectory, Turn

Facts: TypeAlias = Mapping[str, Any]
"""Values for the names of a hint template."""
GiveFacts: TypeAlias = "Callable[[Trajectory, Turn, Diagnosis | None, Dialect], dict[str, Any]]"
"""What a teacher would tell about a turn; see :meth:`hero_pl.teacher.hindsight.HindsightTeacher.facts`."""


class Arm(StrEnum):
    """Kind of content of a hint."""

    HINT = "hint"
    """The turn's own diagnosis, as the teacher shows it."""
    WRONG = "wrong target"
    """The same with the target of another turn: measures whether the model follows it."""
    SHUFFLED = "shuffled"
    """The diagnosis and target of another turn."""
    SCAFFOLD = "empty scaffold"
    """The same wording without content."""
    FEEDBACK = "feedback only"
    """Observation and reward, no diagnosis."""


ALL = tuple(Arm)
SHORT = (Arm.HINT, Arm.WRONG, Arm.SHUFFLED, Arm.SCAFFOLD)
"""Arms that are needed to choose a wording."""


@dataclass(frozen=True, slots=True)
class Case:
    """One turn."""

    episode: int
    turn: Turn
    wanted: tuple[int, ...]
    """Ids of the reply that a good hint makes likely: the target on a blamed turn, else the action taken."""
    wrong: tuple[int, ...] | None
    """Ids of another turn's target; ``None`` on turns called right, or where there is no other."""
    facts: Mapping[Arm, Facts]
    """By arm; what a turn cannot have is left out."""

    @property
    def blamed(self) -> bool:
        """Whether the reflector proposed another action."""
        return self.wanted is not self.turn.action_ids


@dataclass(frozen=True, slots=True)
class _Found:
    """A diagnosed turn."""

    episode: int
    trajectory: Trajectory
    turn: Turn
    diagnosis: Diagnosis


def make_cases(
    trajectories: Sequence[Trajectory],
    reflections: Sequence[Reflection],
    facts: GiveFacts,
    dialect: Dialect,
    turns: int = 16,
) -> list[Case]:
    """Turns of a batch that were blamed (with a corrected action), and turns that were called right.

    Draws no random numbers: the other turn of an arm is the next one, in a circle, with another corrected action (or
    another diagnosis, for turns called right).

    Args:
        trajectories: One rollout batch.
        reflections: One per trajectory.
        facts: Gives what the teacher may show about a turn.
        dialect: Dialect of the policy.
        turns: Largest number of turns of each kind; they are spread evenly over the batch.
    """
    reviewed = [
        _Found(i, trajectory, turn, diagnosis)
        for i, (trajectory, reflection) in enumerate(zip(trajectories, reflections, strict=True))
        for turn, diagnosis in zip(trajectory.turns, reflection.diagnoses, strict=True)
        if diagnosis is not None and turn.action_ids
    ]
    blamed = [one for one in reviewed if one.diagnosis.next_action_target is not None]
    right = [one for one in reviewed if not one.diagnosis.blames]
    cases = [_case(one, blamed, facts, dialect) for one in _spread(blamed, turns)]
    return cases + [_case(one, right, facts, dialect) for one in _spread(right, turns)]


def _case(one: _Found, alike: list[_Found], facts: GiveFacts, dialect: Dialect) -> Case:
    own = one.diagnosis
    hint = facts(one.trajectory, one.turn, own, dialect)
    silent = dict.fromkeys(("diagnosis", "confidence", "target"))
    by_arm: dict[Arm, Facts] = {Arm.HINT: hint, Arm.SCAFFOLD: NOTHING, Arm.FEEDBACK: {**hint, **silent}}
    place = alike.index(one)
    others = [*alike[place + 1 :], *alike[:place]]
    says = _says(one, dialect)
    giver = None
    for other in others:
        told = facts(one.trajectory, one.turn, other.diagnosis, dialect)
        if _says(other, dialect) != says and _shown(told) != _shown(hint):
            giver, by_arm[Arm.SHUFFLED] = other, told
            break
    if own.next_action_target is None:
        return Case(one.episode, one.turn, one.turn.action_ids, None, by_arm)
    wanted = dialect.reply_ids(says)
    if giver is None:
        return Case(one.episode, one.turn, wanted, None, by_arm)
    wrong = replace(own, next_action_target=giver.diagnosis.next_action_target)
    by_arm[Arm.WRONG] = facts(one.trajectory, one.turn, wrong, dialect)
    return Case(one.episode, one.turn, wanted, dialect.reply_ids(_says(giver, dialect)), by_arm)


def _shown(facts: Facts) -> str | None:
    """What every wording shows: the corrected action, or the diagnosis if it is not shown or there is none.

    Two turns with different words for the same correction are no control: most wordings show the correction only.
    """
    shown: str | None = facts["target"] or facts["diagnosis"]
    return shown


def _says(one: _Found, dialect: Dialect) -> str:
    """The corrected action as the policy would send it, or the diagnosis if there is none."""
    call = one.diagnosis.next_action_target
    return one.diagnosis.text if call is None else target_reply(call, dialect.parser)


def _spread(reviewed: list[_Found], count: int) -> list[_Found]:
    """At most ``count`` of them, at even distances."""
    if len(reviewed) <= count:
        return reviewed
    return [reviewed[i * len(reviewed) // count] for i in range(count)]
