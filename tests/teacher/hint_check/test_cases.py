"""Which turns hints are tried on, and what each arm tells."""

from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.hint_check.cases import Arm, make_cases
from hero_pl.types import Diagnosis, Reflection


def cases(reader, batch, change=lambda reflections: reflections, turns=16):
    policy = reader("do ")
    played, reflections = batch(policy)
    return policy, make_cases(played, change(reflections), HindsightTeacher().facts, policy.dialect, turns)


def test_blamed_turns_want_their_target_and_right_ones_the_action_taken(reader, batch) -> None:
    policy, found = cases(reader, batch)
    assert [case.blamed for case in found] == [True] * 4 + [False] * 4
    assert found[1].wanted == policy.ids("click[good1]")
    assert found[5].wanted == found[5].turn.action_ids == policy.ids("click[ok]")
    assert [case.episode for case in found] == [0, 1, 2, 3] * 2


def test_each_arm_tells_what_it_should(reader, batch) -> None:
    policy, found = cases(reader, batch)
    told = found[3].facts  # the last one takes from the first: in a circle
    assert (told[Arm.HINT]["diagnosis"], told[Arm.HINT]["target"]) == ("wrong: bad", "click[good3]")
    assert (told[Arm.WRONG]["diagnosis"], told[Arm.WRONG]["target"]) == ("wrong: bad", "click[good0]")
    assert told[Arm.SHUFFLED]["target"] == "click[good0]"
    assert found[3].wrong == policy.ids("click[good0]")
    assert not any(told[Arm.SCAFFOLD].values())
    assert (told[Arm.FEEDBACK]["next_observation"], told[Arm.FEEDBACK]["target"]) == ("seen", None)
    assert found[4].wrong is None
    assert Arm.WRONG not in found[4].facts
    assert Arm.SHUFFLED not in found[4].facts  # all right turns say the same


def test_turns_without_a_verdict_are_left_out(reader, batch) -> None:
    taken_away = Diagnosis("other words", "high", None, was_failure=True)
    _, found = cases(reader, batch, lambda given: [Reflection((taken_away, None), "ok"), *given[1:]])
    assert [case.episode for case in found] == [1, 2, 3, 1, 2, 3]


def test_turns_are_taken_from_all_over_the_batch(reader, batch) -> None:
    _, found = cases(reader, batch, turns=2)
    assert [(case.episode, case.blamed) for case in found] == [(0, True), (2, True), (0, False), (2, False)]
