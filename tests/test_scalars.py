"""Metrics are combined as declared, over micro-batches and over ranks."""

import math
import random

import pytest
import torch

from hero_pl.errors import HeroError
from hero_pl.scalars import add_up, largest, mean, measured, share, total


def values(*parts):
    return {name: float(scalar) for name, scalar in add_up(parts).items()}


def test_bug_56_and_58_a_count_a_mean_of_unequal_parts_and_a_maximum_by_hand() -> None:
    one = {"count": total(3), "mean": mean(0.5, 2), "longest": largest(17)}
    two = {"count": total(5), "mean": mean(1.0, 6), "longest": largest(4)}
    assert values(one, two) == {"count": 8.0, "mean": (2 * 0.5 + 6 * 1.0) / 8, "longest": 17.0}


def test_names_say_nothing_about_how_a_metric_adds_up() -> None:
    assert values({"loss/max_mean": mean(1.0, 1)}, {"loss/max_mean": mean(3.0, 1)}) == {"loss/max_mean": 2.0}
    assert values({"mean": total(1.0)}, {"mean": total(3.0)}) == {"mean": 4.0}


@pytest.mark.parametrize("make", [lambda v: mean(v, 3), total, largest])
def test_bug_57_nothing_measured_does_not_spoil_the_others_and_is_not_logged(make) -> None:
    assert values({"a": make(math.nan)}, {"a": make(2.0)}, {}) == {"a": 2.0}
    nothing = add_up([{"a": make(math.nan)}, {"a": make(math.nan)}])
    assert math.isnan(float(nothing["a"]))
    assert measured({**nothing, "b": total(0)}) == {"b": 0.0}
    assert values(nothing, {"a": make(2.0)}) == {"a": 2.0}


def test_a_share_of_nothing_was_not_measured_and_has_no_weight() -> None:
    assert measured({"a": share(0, 0), "b": mean(7.0, 0)}) == {}
    assert values({"a": share(0, 0)}, {"a": share(1, 4)}) == {"a": 0.25}


def test_parts_of_parts_add_up_to_the_same_whole() -> None:
    rng = random.Random(0)
    parts = [
        {"a": total(rng.randrange(9)), "b": mean(rng.randrange(9), rng.randrange(5)), "c": largest(rng.random())}
        for _ in range(12)
    ]
    for cut in (1, 5, 11):
        assert values(add_up(parts[:cut]), add_up(parts[cut:])) == pytest.approx(values(*parts))
    assert add_up([]) == {}


def test_a_single_part_and_what_all_ranks_know_alike_stay_exactly_what_they_are() -> None:
    assert values({"a": mean(0.1, 3)}) == {"a": 0.1}
    assert values(*[{"a": largest(0.1)}] * 3) == {"a": 0.1}


def test_tensors_are_read_when_they_are_added_up() -> None:
    added = add_up([{"a": mean(torch.tensor(0.5), 1)}, {"a": mean(torch.tensor(1.5), torch.tensor(3).item())}])
    assert type(added["a"].value) is float
    assert float(added["a"]) == 1.25


@pytest.mark.parametrize("plain", [3.0, 3, torch.tensor(3.0)])
def test_bug_59_a_plain_number_is_refused_with_what_to_write(plain) -> None:
    with pytest.raises(HeroError, match=r"'mine/count' is .*3.*total\(\.\.\.\) for a count.*hero_pl\.scalars"):
        add_up([{"mine/count": plain}])


def test_parts_that_disagree_about_a_metric_are_refused() -> None:
    with pytest.raises(HeroError, match="'a' is a max in one part of a step and a sum in another"):
        add_up([{"a": total(1)}, {"a": largest(1)}])
