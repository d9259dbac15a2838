"""Warm-up data: all modes occur, labels obey the hints, and nothing of it is trained or tested on later."""

import re

import pytest

from hero_pl.errors import ConfigError
from hero_pl.pocket.demonstrations import ShopDemonstrations, habits
from hero_pl.pocket.rules import Page, Request
from hero_pl.rollout.collect import Collector, Draw

ENV = "hero_pl/WebShopPocket-v0"


@pytest.fixture
def made(tiny_policy):
    """Makes the policy and the rows of forty episodes."""

    def make(**kwargs):
        policy = tiny_policy()
        policy.load()
        collector = Collector(ENV, split="warmup")
        draws = [Draw(task, i, i) for i, task in enumerate(collector.task_ids[:40])]
        rows = ShopDemonstrations(**kwargs).make(draws, policy, collector)
        return policy, rows

    return make


def hint_of(policy, row):
    """The hint in the row's context, or an empty text."""
    found = re.findall(r"note:[^\n]*?(?=<\|im_|\n|$)", policy.template.encoder.decode(row.turns[-1].prompt_ids))
    return found[-1].strip() if found else ""


def test_acting_reviewing_and_hinted_rows_occur_in_all_modes(made):
    policy, rows = made()
    hints = [hint for row in rows if (hint := hint_of(policy, row))]
    assert any(len(row.turns) > 1 for row in rows)
    assert any("review: reward" in policy.template.encoder.decode(row.turns[-1].prompt_ids) for row in rows)
    verdict = re.compile(r"(right|wrong|wasted|invalid): ")
    modes = {("then" in hint, bool(verdict.search(hint)), " do " in hint) for hint in hints}
    assert (True, True, True) in modes, "full hints"
    assert (True, True, False) in modes, "hints without a target"
    assert (True, False, False) in modes, "environment feedback alone"
    assert any(not then and said for then, said, _ in modes), "diagnosis alone"


def test_the_label_does_what_the_target_in_the_hint_says(made):
    policy, rows = made()
    asked = [(found.group(1).strip(), row) for row in rows if (found := re.search(r" do (.*)", hint_of(policy, row)))]
    assert len(asked) > 10
    for target, row in asked:
        assert target == row.turns[0].text


def test_the_label_repeats_what_a_hint_calls_right_and_leaves_what_it_calls_wrong(made):
    policy, rows = made(obedience=1.0)
    checked = 0
    for row in rows:
        found = re.search(r" (right|wrong): (.+?)(?: do .*)?$", hint_of(policy, row))
        if found:
            same = row.turns[0].text in (f"click[{found.group(2)}]", f"search[{found.group(2)}]")
            assert same == (found.group(1) == "right"), (found.group(0), row.turns[0].text)
            checked += 1
    assert checked > 20


def test_clean_demonstrations_win_every_episode(made):
    _, rows = made(clean=True)
    assert [row.reward for row in rows] == [1.0] * 40


def test_the_demonstrator_is_mediocre(made):
    _, rows = made()
    played = [row.reward >= 1.0 for row in rows if len(row.turns) > 1]
    assert 0.05 < sum(played) / len(played) < 0.7


def test_a_search_that_went_astray_is_reviewed_as_wrong_and_mended(made):
    _, rows = made(astray=0.5)
    astray = [row for row in rows if len(row.turns) > 1 and "click[back to search]" in [t.text for t in row.turns]]
    assert len(astray) > 5
    for row in astray:
        assert '"wrong: ' in row.turns[-1].text
        assert '"right: back to search"' in row.turns[-1].text


def test_habits_follow_the_position_whether_or_not_the_first_value_is_right(made):
    _, rows = made(habit=0.99, noise=0.0, astray=0.0, wasted=0.0, invalid=0.0)
    first = []
    for row in (row for row in rows if len(row.turns) > 1):
        pages = [row.first_observation, *(turn.observation for turn in row.turns)]
        for page, turn in zip(pages, row.turns[:-1], strict=False):
            kind = Request.read(row.first_observation).category
            if Page.read(page).slot in habits(kind):
                first.append(turn.text == f"click[{Page.read(page).values[0]}]")
    assert len(first) > 30
    assert sum(first) / len(first) > 0.9


def test_warm_up_tasks_are_disjoint_from_all_others():
    tasks = {split: set(Collector(ENV, split=split).task_ids) for split in ("warmup", "train", "validation", "test")}
    assert all(tasks.values())
    for split in ("train", "validation", "test"):
        assert not tasks["warmup"] & tasks[split]


def test_a_probability_of_one_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"noise=1\.0"):
        ShopDemonstrations(noise=1.0)
