"""The probe of the pocket policy's warm-up skills."""

import random

import pytest
from skills_probe import _other_value, compared, load, probe

from hero_pl.types import StopReason, Trajectory, Turn


def test_a_change_is_paired_over_episodes() -> None:
    result = compared([(0, 0.5), (1, 0.0)], [(0, 1.0), (1, 0.25)])
    shares = (result["before"], result["after"], result["change"], result["low"], result["high"])
    assert shares == (0.25, 0.625, 0.375, 0.25, 0.5)
    assert result["verdict"] == "better"
    assert compared([(0, 1.0), (1, 0.0)], [(0, 0.0), (1, 1.0)])["verdict"] == "not resolved"
    assert compared([(0, 1.0), (1, 1.0)], [(0, 0.5), (1, 0.0)])["verdict"] == "worse"
    assert compared([(0, 1.0)], [(0, 0.5)])["verdict"] == "not resolved"  # one case shows no spread


def test_a_false_hint_names_another_value_of_the_same_page() -> None:
    page = "cotton shirt ; color: blue | red | green ; < prev"
    turns = (
        Turn(1, (), (1,), (0.0,), "search[shirt]", "search[shirt]", page, "user"),
        Turn(2, (), (1,), (0.0,), "click[blue]", "click[blue]", "done", "user"),
    )
    played = Trajectory("t", "e", 0, 0, "", (), "find: buy", turns, 0.0, StopReason.TERMINATED)
    rng = random.Random(0)
    assert {_other_value(played, 1, "click[red]", rng) for _ in range(30)} == {"click[blue]", "click[green]"}


def test_a_policy_compared_with_itself_has_not_changed_and_knows_its_skills() -> None:
    policy = load("hero_pl:pocket-shop")
    result = probe(policy, policy, 20, 0)
    assert {name.partition(":")[0] for name in result} == {"acting", "reviews", "hints"}
    assert {(one["change"], one["verdict"]) for one in result.values()} == {(0.0, "not resolved")}
    assert result["hints: obeys a true hint"]["before"] > result["hints: right action without a hint"]["before"]


@pytest.mark.parametrize("skill", ["reviews: turns covered", "hints: obeys a true hint"])
def test_random_weights_have_lost_every_skill(skill: str, tiny_policy) -> None:  # type: ignore[no-untyped-def]
    lost = tiny_policy()
    lost.load()
    result = probe(load("hero_pl:pocket-shop"), lost, 20, 0)
    assert result[skill]["verdict"] == "worse"
