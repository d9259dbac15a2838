import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hero_pl.reflection.derange import Placed, derange, mismatch


def placed(text: str, episode: int = 0, turn: int = 1, task: str = "t") -> Placed:
    return Placed(text, "env", task, episode, turn)


@given(st.lists(st.sampled_from(["a", "bb", "cccc", "d" * 30]), min_size=2, max_size=80), st.integers(0, 99))
def test_no_item_keeps_its_place_and_every_text_is_used_once(texts: list[str], seed: int) -> None:
    items = [placed(text, turn=i) for i, text in enumerate(texts)]
    source = derange(items, random.Random(seed))
    assert source is not None
    assert sorted(source) == list(range(len(items)))
    assert all(source[i] != i for i in range(len(items)))


@pytest.mark.parametrize("size", [0, 1])
def test_one_item_cannot_be_deranged(size: int) -> None:
    assert derange([placed("a")] * size, random.Random(0)) is None


def test_another_value_is_preferred_to_another_place() -> None:
    items = [placed(text, turn=i) for i, text in enumerate(["good"] * 4 + ["poor"] * 4)]
    for seed in range(20):
        source = derange(items, random.Random(seed))
        assert source is not None
        assert all(items[i].text != items[source[i]].text for i in range(8))


def test_another_episode_and_another_task_are_preferred() -> None:
    items = [placed(f"text {e}{t}", e, t, task=f"task{e // 2}") for e in range(4) for t in range(1, 4)]
    for seed in range(20):
        source = derange(items, random.Random(seed))
        assert source is not None
        assert all(items[i].task_id != items[source[i]].task_id for i in range(len(items)))


def test_lengths_stay_in_their_bucket_where_they_can() -> None:
    items = [placed(letter * length, turn=0) for length in (5, 20, 80, 300) for letter in "abcd"]
    source = derange(items, random.Random(1))
    assert source is not None
    assert all(items[i].bucket == items[source[i]].bucket for i in range(len(items)))


def test_the_seed_fixes_the_exchange_and_another_seed_changes_it() -> None:
    items = [placed(f"text {i:02d}", turn=i) for i in range(30)]
    assert derange(items, random.Random(3)) == derange(items, random.Random(3))
    assert derange(items, random.Random(3)) != derange(items, random.Random(4))


def test_the_weights_are_in_the_stated_order() -> None:
    own = placed("abcd", 0, 1, "t")
    worse = [
        placed("wxyz", 1, 1, "u"),  # another length would be worse
        placed("w" * 900, 1, 1, "u"),
        placed("wxyz", 1, 1, "t"),
        placed("wxyz", 0, 2, "t"),
        placed("abcd", 1, 1, "u"),
    ]
    costs = [mismatch(own, other) for other in worse]
    assert costs == sorted(costs)
    assert costs[0] == 0


def test_of_one_task_another_episode_is_preferred() -> None:
    items = [placed(f"text {e}{t}", e, t) for e in range(3) for t in range(1, 5)]
    for seed in range(20):
        source = derange(items, random.Random(seed))
        assert source is not None
        assert all(items[i].episode != items[source[i]].episode for i in range(len(items)))
