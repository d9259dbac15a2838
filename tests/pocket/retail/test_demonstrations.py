"""Retail warm-up data: all modes occur, labels follow hints, mistakes are systematic, no task is tested later."""

import re
from collections import Counter

import pytest

from hero_envs.tau_bench.lookups import GIFT_CARD
from hero_pl.errors import ConfigError
from hero_pl.pocket.retail.commands import RetailCommands
from hero_pl.pocket.retail.demonstrations import RetailDemonstrations, has_habit
from hero_pl.pocket.retail.reflector import RetailRules, desks
from hero_pl.pocket.retail.rules import ACTS, ENV, ENV_ARGS, TRANSFER, judge, read_call, short
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.specs import EpisodeSpec

SMALL = {**ENV_ARGS, "size": 200, "tasks": 400}


@pytest.fixture
def policy(tiny_config):
    made = HuggingFacePolicy(
        config={**tiny_config, "max_position_embeddings": 1024},
        tokenizer="hero_pl:pocket-retail",
        parser=RetailCommands(),
    )
    made.load()
    return made


@pytest.fixture
def make(policy):
    """Makes the rows of sixty episodes."""

    def made(episodes=60, **kwargs):
        collector = Collector(ENV, SMALL, split="warmup")
        specs = [EpisodeSpec(task, i, i) for i, task in enumerate(collector.task_ids[:episodes])]
        return RetailDemonstrations(**kwargs).make(specs, policy.dialect, collector)

    return made


def hint_of(policy, row):
    """The hint in the row's context, or an empty text."""
    matches = re.findall(r"note:[^\n]*?(?=<\|im_|\n|$)", policy.template.encoder.decode(row.turns[-1].prompt_ids))
    return matches[-1].strip() if matches else ""


@pytest.mark.parametrize("clean", [False, True])
def test_bug_755_another_environment_is_refused_by_name(clean, policy):
    collector = Collector("hero_pl/WebShopPocket-v0", split="warmup")
    with pytest.raises(
        ConfigError, match=r"cannot play data\.env='hero_pl/WebShopPocket-v0'.*Set data\.demonstrations"
    ):
        RetailDemonstrations(clean=clean).make([EpisodeSpec(collector.task_ids[0], 0, 0)], policy.dialect, collector)


def test_acting_reviewing_and_hinted_rows_occur_in_all_modes(policy, make):
    rows = make()
    hints = [hint for row in rows if (hint := hint_of(policy, row))]
    assert any(len(row.turns) > 1 for row in rows)
    assert any("review: reward" in policy.template.encoder.decode(row.turns[-1].prompt_ids) for row in rows)
    verdict = re.compile(r" (right|wrong \w+|error|not \w+|\w+ not \w+): ")
    modes = {(" reward " in hint, bool(verdict.search(hint)), " do " in hint) for hint in hints}
    assert (True, True, True) in modes, "full hints"
    assert (True, False, False) in modes, "environment feedback alone"
    assert any(not reward and diagnosed for reward, diagnosed, _ in modes), "diagnosis alone"


def test_the_label_does_what_the_target_in_the_hint_says(policy, make):
    asked = [(match[1].strip(), row) for row in make() if (match := re.search(r" do (.*)", hint_of(policy, row)))]
    assert len(asked) > 20
    for target, row in asked:
        assert target == row.turns[0].text


def test_the_label_repeats_what_a_hint_calls_right_and_leaves_what_it_calls_wrong(policy, make):
    checked = Counter()
    for row in make(obedience=0.99):
        hint = hint_of(policy, row)
        match = re.search(r" (right|wrong \w+|error|not \w+|\w+ not \w+): (.+?)(?: do .*)?$", hint)
        if match:
            same = short(read_call(RetailCommands().parse(row.turns[0].text).action)) == match[2]
            if match[1] == "right":
                assert same, (hint, row.turns[0].text)
            checked[match[1] == "right"] += 1
            checked["same"] += same and match[1] != "right"
    assert min(checked[True], checked[False]) > 20
    # two refunds of one item, to the two methods, differ; but two ways of asking are one word
    assert checked["same"] <= 0.1 * checked[False]


def test_a_review_blames_the_turn_that_was_wrong_and_no_other(policy, make):
    blamed = Counter()
    for row in make(habit=0.9):
        if len(row.turns) < 2:
            continue
        reflection = RetailRules().reflect([row], policy)[0]
        for desk, turn, diagnosis in zip(desks(row), row.turns, reflection.diagnoses, strict=True):
            right = read_call(turn.action) == desk.right()
            assert (diagnosis.next_action_target is None) == right
            blamed[diagnosis.text.partition(":")[0]] += 1
    assert {"right", "wrong item", "wrong reason", "user not read", "not allowed"} <= set(blamed)


def test_some_refusals_are_wrong_and_reviewed_as_wrong(make):
    def wrong_transfers(refusals):
        episodes = [row for row in make(habit=0.0, refusals=refusals) if len(row.turns) > 1]
        return [
            row.turns[-1].text  # the review
            for row in episodes
            for desk, turn in zip(desks(row), row.turns, strict=True)
            if read_call(turn.action) == TRANSFER != desk.right()
        ]

    reviews = wrong_transfers(0.3)
    assert len(reviews) > 5
    assert all(": transfer" in review and "right: transfer" not in review for review in reviews)
    assert not wrong_transfers(0.0)


def test_clean_demonstrations_win_every_episode(make):
    assert [row.reward for row in make(clean=True)] == [1.0] * 60


def test_the_demonstrator_is_mediocre_and_its_mistakes_are_of_both_kinds(make):
    played = [row for row in make(habit=0.7) if len(row.turns) > 1]
    assert 0.2 < sum(row.reward for row in played) / len(played) < 0.7
    answers = Counter()
    for row in played:
        for desk, turn in zip(desks(row), row.turns, strict=True):
            _, target = judge(desk, read_call(turn.action), turn.observation)
            if target is not None and read_call(turn.action)["name"] in ACTS:
                answers[turn.observation.startswith("Error")] += 1
    assert answers[True] > 0, "a tool names the mistake"
    assert answers[False] > 0, "a tool accepts the mistake"


def test_habits_depend_on_the_product_alone(make):
    for row in make(clean=True):
        desk = desks(row)[0]
        if desk.goal.kind == "return":
            assert has_habit("item", desk) == has_habit("item", desks(row)[-1])


def test_every_decision_can_be_made_from_what_is_visible(make):
    for row in make(clean=True):
        change = [(desk, read_call(turn.action)) for desk, turn in zip(desks(row), row.turns, strict=True)]
        for desk, call in change:
            if call["name"] == "return_delivered_order_items":
                assert call["arguments"]["item_ids"][0] in desk.items
                assert call["arguments"]["payment_method_id"] in desk.payments()
                if desk.goal.payment_id == GIFT_CARD:
                    assert call["arguments"]["payment_method_id"].startswith(GIFT_CARD)


def test_warm_up_tasks_and_users_are_disjoint_from_all_others():
    collectors = {split: Collector(ENV, SMALL, split) for split in ("warmup", "train", "validation", "test")}
    domain = collectors["warmup"].env.unwrapped.domain
    users = {split: {task.user_id for task in domain.splits[split]} for split in collectors}
    assert all(users.values())
    for split in ("train", "validation", "test"):
        assert not users["warmup"] & users[split]
        assert not users["train"] & users[split] or split == "train"


def test_a_probability_of_one_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"noise=1\.0"):
        RetailDemonstrations(noise=1.0)
