"""The turns that hints are tested on, and the content of each arm."""

import pytest

from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.hint_check.cases import Arm, make_cases
from hero_pl.types import Diagnosis, Reflection


def cases(reader, batch, change=lambda reflections: reflections, turns=16):
    policy = reader("do ")
    played, reflections = batch(policy)
    return policy, make_cases(played, change(reflections), HindsightTeacher().facts, policy.dialect, turns)


def test_wrong_turns_use_their_target_and_right_ones_the_action_taken(reader, batch) -> None:
    policy, chosen = cases(reader, batch)
    assert [case.blamed for case in chosen] == [True] * 4 + [False] * 4
    assert chosen[1].wanted == policy.ids("click[good1]")
    assert chosen[5].wanted == chosen[5].turn.action_ids == policy.ids("click[ok]")
    assert [case.episode for case in chosen] == [0, 1, 2, 3] * 2


@pytest.mark.parametrize(
    "target",
    [
        {"action": "click[good]"},
        {"action": {"name": "click", "arguments": {"element": "good"}}},
        {"name": "respond", "arguments": {"content": "click[good]"}},
    ],
    ids=["text", "call in an action", "reply to the user"],
)
def test_bug_701_the_wanted_reply_is_the_one_that_the_hint_tells(reader, batch, target) -> None:
    told = Diagnosis("wrong: bad", "high", target)
    policy, chosen = cases(reader, batch, lambda given: [Reflection((told, None), "ok"), *given[1:]])
    assert chosen[0].wanted == policy.ids("click[good]") == chosen[3].wrong
    assert chosen[0].facts[Arm.HINT]["target"] == "click[good]"


def test_each_arm_tells_what_it_should(reader, batch) -> None:
    policy, chosen = cases(reader, batch)
    facts = chosen[3].facts  # the last one takes from the first: in a circle
    assert (facts[Arm.HINT]["diagnosis"], facts[Arm.HINT]["target"]) == ("wrong: bad", "click[good3]")
    assert (facts[Arm.WRONG]["diagnosis"], facts[Arm.WRONG]["target"]) == ("wrong: bad", "click[good0]")
    assert facts[Arm.SHUFFLED]["target"] == "click[good0]"
    assert chosen[3].wrong == policy.ids("click[good0]")
    assert not any(facts[Arm.SCAFFOLD].values())
    assert (facts[Arm.FEEDBACK]["next_observation"], facts[Arm.FEEDBACK]["target"]) == ("seen", None)
    assert chosen[4].wrong is None
    assert Arm.WRONG not in chosen[4].facts
    assert Arm.SHUFFLED not in chosen[4].facts  # all right turns say the same


def test_turns_without_a_verdict_are_left_out(reader, batch) -> None:
    taken_away = Diagnosis("other words", "high", None, was_failure=True)
    _, chosen = cases(reader, batch, lambda given: [Reflection((taken_away, None), "ok"), *given[1:]])
    assert [case.episode for case in chosen] == [1, 2, 3, 1, 2, 3]


def test_turns_are_taken_from_all_over_the_batch(reader, batch) -> None:
    _, chosen = cases(reader, batch, turns=2)
    assert [(case.episode, case.blamed) for case in chosen] == [(0, True), (2, True), (0, False), (2, False)]


@pytest.mark.parametrize("confidence", ["high", "medium"], ids=["target is shown", "target is not shown"])
@pytest.mark.parametrize(
    ("second", "words"), [("click[good0]", "wrong: b"), ("click[other]", "wrong: a")], ids=["target", "words"]
)
def test_bug_709_a_turn_that_tells_the_same_is_no_control(reader, batch, confidence, second, words) -> None:
    """Wordings show the correction, or else the diagnosis: a shuffled hint would be the turn's own hint."""
    told = Diagnosis("wrong: a", confidence, {"name": "respond", "arguments": {"content": "click[good0]"}})
    alike = Diagnosis(words, confidence, {"action": second})
    far = Diagnosis("wrong: c", confidence, {"action": "click[far]"})
    _, chosen = cases(reader, batch, lambda given: [Reflection((told, alike), "ok"), Reflection((far, None), "ok")] * 2)
    facts = chosen[0].facts
    shown = confidence == "high"
    if shown and second == "click[other]":
        assert facts[Arm.SHUFFLED]["target"] == facts[Arm.WRONG]["target"] == second
    else:
        assert (facts[Arm.SHUFFLED]["diagnosis"], facts[Arm.SHUFFLED]["target"]) == (
            "wrong: c",
            "click[far]" if shown else None,
        )


def test_turns_that_all_need_the_same_correction_have_no_control(reader, batch) -> None:
    told = [Diagnosis(f"wrong {i}", "high", {"action": "click[good]"}) for i in range(4)]
    policy, chosen = cases(reader, batch, lambda _: [Reflection((one, None), "ok") for one in told])
    assert all(set(case.facts) == {Arm.HINT, Arm.SCAFFOLD, Arm.FEEDBACK} for case in chosen)
    assert {(case.wanted, case.wrong) for case in chosen} == {(policy.ids("click[good]"), None)}
