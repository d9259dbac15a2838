"""Verdicts follow from intervals, and few turns give no verdict."""

import math

import pytest

from hero_pl.teacher.hint_check.cases import ALL, Arm
from hero_pl.teacher.hint_check.measure import Measured, Reading
from hero_pl.teacher.hint_check.verdict import Change, Kind, judge
from hero_pl.teacher.wordings import Wording

EPISODES = (0, 1, 2, 3)


def kind(hint, wrong=0.0, shuffled=-1.0, scaffold=0.0, noise=0.05, episodes=EPISODES, right=0.0):
    """The verdict on a wording with these mean changes, plus and minus ``noise`` in turn."""
    turns = len(episodes)
    spread = [noise if i % 2 else -noise for i in range(turns)]
    means = {Arm.HINT: hint, Arm.WRONG: wrong, Arm.SHUFFLED: shuffled, Arm.SCAFFOLD: scaffold, Arm.FEEDBACK: 0.0}
    values = {arm: [-2.0 + mean + s for s in spread] for arm, mean in means.items()}
    of_right = {arm: [-1.0 + (right if arm is Arm.HINT else 0.0) + s for s in spread] for arm in ALL}
    of_right[Arm.WRONG] = [None] * turns
    measured = Measured(
        episodes * 2,
        (True,) * turns + (False,) * turns,
        (-2.0,) * turns + (-1.0,) * turns,
        (-2.0,) * 2 * turns,
        (),
        0,
        0,
        0,
    )
    return judge(
        measured, Reading(Wording("short"), {arm: (*values[arm], *of_right[arm]) for arm in ALL}, (True,) * 2 * turns)
    )


def test_a_preference_lies_between_minus_one_and_one() -> None:
    # p = 3 p0 is (3 - 1) / (3 + 1); a reply that becomes a third as likely, the same below 0
    assert Change.of([(0, math.log(3))]).mean == pytest.approx(0.5)
    assert Change.of([(0, -math.log(3))]).mean == pytest.approx(-0.5)
    assert Change.of([(0, 500.0), (1, -500.0)]).mean == pytest.approx(0.0)


def test_its_interval_is_that_of_a_mean_over_episodes() -> None:
    # Two turns in each of two episodes, preferences 0.5 and 0, 0 and -0.5: mean 0, sums of deviations 0.5 and -0.5, and
    # the standard error is sqrt(2 / 1 * (0.25 + 0.25)) / 4 = 0.25. With one degree of freedom the quantile is 12.71.
    change = Change.of([(0, math.log(3)), (0, 0.0), (1, 0.0), (1, -math.log(3))])
    assert (change.mean, change.turns, change.episodes) == (pytest.approx(0.0), 4, 2)
    assert change.high - change.mean == pytest.approx(0.25 * 12.706, rel=1e-3)


def test_one_turn_with_a_huge_change_does_not_decide() -> None:
    steady = [(episode, 1.0) for episode in range(8)]
    assert Change.of([*steady, (8, 15.0)]).low > 0.0


def test_one_episode_has_no_interval() -> None:
    change = Change.of([(3, 1.0), (3, 1.0)])
    assert (change.low, change.high) == (-math.inf, math.inf)
    assert "one episode" in str(change)
    assert kind(hint=2.0, wrong=3.0, episodes=(0, 0, 0, 0)).kind is Kind.UNRESOLVED


def test_turns_that_all_move_alike_show_no_interval_of_no_width() -> None:
    assert str(Change.of([(episode, -30.0) for episode in range(4)])) == "-1.00 [all alike]"
    assert str(Change.of([(0, 0.0), (1, 2.0)])).count(",") == 1


def test_a_hint_that_helps_is_usable() -> None:
    judged = kind(hint=1.5, wrong=3.0)
    assert judged.kind is Kind.USABLE
    assert judged.blamed.mean == pytest.approx(math.tanh(0.75), rel=1e-2)
    assert judged.obeyed.mean == pytest.approx(math.tanh(1.5), rel=1e-2)
    assert judged.overall.mean == pytest.approx(math.tanh(0.75) / 2, rel=1e-2)
    assert judged.gain["blamed"] == pytest.approx(1.5)


def test_a_hint_that_helps_no_more_than_another_turn_s_says_nothing() -> None:
    assert kind(hint=1.5, shuffled=1.5).kind is Kind.ANY_HINT


def test_harm_is_attributed_to_the_scaffold_if_the_scaffold_alone_is_harmful() -> None:
    assert kind(hint=-3.0, scaffold=-4.0).kind is Kind.SCAFFOLD
    assert kind(hint=-3.0, scaffold=0.0).kind is Kind.HARMFUL
    assert kind(hint=1.0, right=-3.0).kind is Kind.HARMFUL  # it costs more than it gives


def test_a_model_with_no_significant_change_does_not_follow_hints() -> None:
    assert kind(hint=0.0, wrong=0.0).kind is Kind.NOTHING
    assert kind(hint=0.0, wrong=2.0).kind is Kind.UNRESOLVED
    assert kind(hint=0.5, wrong=0.0, noise=2.0).kind is Kind.UNRESOLVED
