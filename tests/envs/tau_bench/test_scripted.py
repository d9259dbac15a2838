"""Scripted user and scripted expert together, and the user alone."""

import json
from pathlib import Path

import pytest

from hero_envs.tau_bench.domain import Domain
from hero_envs.tau_bench.env import read_action
from hero_envs.tau_bench.episode import Episode
from hero_envs.tau_bench.expert import ScriptedExpert
from hero_envs.tau_bench.generate import pocket_retail
from hero_envs.tau_bench.goals import parse_request
from hero_envs.tau_bench.manifest import do_nothing_floor, stored_manifest
from hero_envs.tau_bench.official import load_official
from hero_envs.tau_bench.tasks import Task
from hero_envs.tau_bench.users.base import STOP
from hero_envs.tau_bench.users.scripted import ScriptedUser

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / ".." / "shared" / "data" / "taubench"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the official data lies in shared/ beside the repository")

TWO_GOALS = (
    "Your name is Ann Lee and your zip code is 19031. You are calm. "
    "Return #W1 via paypal_7: Desk Lamp {'color': 'red'}; Mug; "
    "For #W2, exchange Chair {'size': 'small'} to {'size': 'large'}; via gift_card_8. "
)


def play(domain: Domain, task: Task, mode: str) -> float:
    episode = Episode(domain, task, ScriptedUser(mode))  # type: ignore[arg-type]
    expert = ScriptedExpert()
    observation = episode.start()
    for _ in range(100):
        name, kwargs, problem = read_action(expert.act(observation))
        assert problem is None
        step = episode.step(name, kwargs)
        observation = step.observation
        if step.done:
            return step.reward
    raise AssertionError(f"{task.id} did not end")


@needs_data
@pytest.mark.parametrize("mode", ["full", "on_demand"])
def test_the_expert_solves_all_500_training_tasks(mode: str) -> None:
    domain = load_official("retail", DATA)
    failed = [task.id for task in domain.splits["train"] if play(domain, task, mode) != 1.0]
    assert failed == []


@pytest.mark.parametrize("mode", ["full", "on_demand"])
def test_the_expert_solves_all_generated_tasks(mode: str) -> None:
    domain = pocket_retail(users=60, tasks=200, max_goals=3)
    tasks = [task for split in domain.splits.values() for task in split]
    assert len(tasks) == 200
    assert [task.id for task in tasks if play(domain, task, mode) != 1.0] == []


@needs_data
@pytest.mark.parametrize(
    ("name", "split", "right"), [("retail", "test", 7), ("airline", "test", 19), ("retail", "train", 5)]
)
def test_a_policy_that_hangs_up_at_once_reaches_the_published_floor(name: str, split: str, right: int) -> None:
    domain = load_official(name, DATA)
    rewarded = []
    for task in domain.splits[split]:
        episode = Episode(domain, task, ScriptedUser())
        episode.start()
        if episode.step("transfer_to_human_agents", {"summary": ""}).reward == 1.0:
            rewarded.append(task.id)
    assert len(rewarded) == right
    assert rewarded == stored_manifest()[name]["do_nothing"][split]
    assert do_nothing_floor(domain, split) == pytest.approx(right / len(domain.splits[split]))


def test_every_sentence_form_is_read_and_written_again() -> None:
    text = (
        "Cancel order #W1 because no longer needed. Return #W2 via paypal_7: Desk Lamp {'color': 'red'}; Mug; "
        "For #W3, exchange Chair {'size': 'small'} to {'size': 'large'}; Mug {} to {}; via gift_card_8. "
        "For #W4, modify Chair {'size': 'small'} to {}; via gift_card_8. For #W5, change payment to paypal_7. "
        "For #W6, change address to {'order_id': '#W6', 'address1': '1 Elm', 'address2': '', 'city': 'B', "
        "'country': 'USA', 'state': 'NY', 'zip': '1'} (same as #W2). "
    )
    goals = parse_request(text).goals
    assert [goal.kind for goal in goals] == ["cancel", "return", "exchange", "modify", "payment", "address"]
    assert "".join(map(str, goals)) == text


@needs_data
def test_every_training_instruction_is_read_without_loss() -> None:
    for task in load_official("retail", DATA).splits["train"]:
        goals = "".join(map(str, parse_request(task.instruction).goals))
        assert task.instruction.endswith(goals), task.id
        assert goals


def test_options_are_read_as_literals_and_nothing_is_executed() -> None:
    text = "Return #W1 via paypal_1: Mug {__import__('os').getcwd(): 'x'}; "
    assert parse_request(text).goals[0].items[0].options is None


def test_on_demand_gives_identity_and_details_only_when_asked() -> None:
    user = ScriptedUser("on_demand")
    opening = user.reset(TWO_GOALS)
    assert "#W1" not in opening
    assert "Lee" not in opening
    assert user.step("May I have your name and zip code?") == "My name is Ann Lee and my zip code is 19031."
    assert user.step("Which order is it? Please tell me the order id.") == "#W1"
    assert user.step("How shall we refund you?") == "paypal_7"
    assert user.step("What is the reason?") == "I don't remember."


def test_a_proposal_with_a_foreign_order_or_payment_is_corrected() -> None:
    user = ScriptedUser()
    user.reset(TWO_GOALS)
    assert user.step("I will return items of #W9. Do you confirm (yes/no)?").startswith("No.")
    assert user.step("I will return items of #W1 to credit_card_5. Do you confirm (yes/no)?").startswith("No.")
    assert user.step("I will return items of #W1 to paypal_7. Do you confirm (yes/no)?") == "Yes."


def test_the_user_reminds_once_of_what_was_not_dealt_with_and_then_stops() -> None:
    user = ScriptedUser()
    user.reset(TWO_GOALS)
    assert user.step("Return items of #W1, yes/no?") == "Yes."
    assert "#W2" in user.step("Done. Is there anything else?")
    assert user.step("Is there anything else?") == STOP


def test_a_policy_that_only_chats_meets_a_user_who_repeats_and_then_stops() -> None:
    user = ScriptedUser(max_messages=10)
    user.reset(TWO_GOALS)
    answers = [user.step("Nice weather today.") for _ in range(21)]
    assert any("#W1" in answer for answer in answers)
    assert answers[-1] == STOP
    assert STOP not in "".join(answers[:20])


def test_free_text_is_in_the_first_person() -> None:
    opening = ScriptedUser().reset("You are Mia. You want to return your lamp, and you're angry with yourself.")
    assert opening == "I am Mia. I want to return my lamp, and I'm angry with myself."


def test_the_expert_sees_only_text() -> None:
    expert = ScriptedExpert()
    assert "name" in expert.act("I want to cancel an order.")
    action = json.loads(expert.act("My name is Ann Lee and my zip code is 19031."))
    assert action["arguments"] == {"first_name": "Ann", "last_name": "Lee", "zip": "19031"}


def test_the_expert_takes_each_of_two_like_items_once() -> None:
    expert = ScriptedExpert()
    mugs = [
        {"name": "Mug", "product_id": "p", "item_id": item_id, "options": {"size": size}}
        for item_id, size in (("1", "small"), ("2", "small"), ("3", "large"))
    ]
    expert.act("My name is Ann Lee and my zip code is 1. Return #W1 via paypal_7: Mug {'size': 'small'}; Mug; Mug; ")
    expert.act("ann_lee")
    assert "confirm" in expert.act(json.dumps({"status": "delivered", "items": mugs}))
    assert json.loads(expert.act("Yes."))["arguments"]["item_ids"] == ["1", "2", "3"]
