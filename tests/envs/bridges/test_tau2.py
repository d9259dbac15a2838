"""Episodes of tau2-bench, scored by its own evaluator."""

import json

import gymnasium
import pytest

from hero_envs.bridges.tau2 import Tau2Env
from hero_envs.tau_bench.users.base import STOP
from hero_pl.chat.actions import PlainText
from hero_pl.module import HeroModule
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.reflection.none import NoReflector
from hero_pl.rollout.check_env import check_env
from hero_pl.rollout.collect import Limits
from hero_pl.teacher.hindsight import FeedbackOnlyTeacher

pytestmark = pytest.mark.bridge

MEETING = "create_task_1_with_env_assertions"
"""A task of the domain ``mock`` that every version has, with a customer and without."""
UNSOLVED = {"update_task_with_user_tools"}
"""Of ``mock`` in v1.0.1: a check of the customer's state contradicts the state after the reference actions."""
BYE = "It is done. Is there anything else?"


def call(name, **arguments):
    return json.dumps({"name": name, "arguments": arguments})


def reference(env, task):
    """The actions of the task's own solution, and what the customer must be told."""
    criteria = env._tasks[task].evaluation_criteria
    for action in criteria.actions or ():
        yield call(action.name, **action.arguments)
    for text in criteria.communicate_info or ():
        yield f"{text}."
    yield call("done") if env.customer is None else BYE


def played(env, task, actions):
    """The last step of an episode."""
    env.reset(seed=0, options={"task": task})
    for action in actions:
        step = env.step(action)
        if step[2] or step[3]:
            break
    return step


@pytest.mark.parametrize("user", ["scripted", "solo"])
def test_it_follows_the_api(tau2, user):
    assert check_env("hero_pl/Tau2-v0", user=user) == []


def test_the_reference_solves_every_task_of_the_mock_domain_and_nothing_else_does(tau2):
    for user in ("scripted", "solo"):
        env = Tau2Env(split="all", user=user)
        for task in env.task_ids:
            _, reward, over, truncated, info = played(env, task, reference(env, task))
            solved = task not in UNSOLVED
            assert (reward, over, truncated, info["success"]) == (float(solved), True, False, solved), task
            floor = env.reset(seed=0, options={"task": task})[1]["do_nothing_succeeds"]
            end = call("done") if user == "solo" else BYE
            assert played(env, task, [end])[4]["success"] is floor, task


def test_a_wrong_argument_gives_nothing_and_the_components_say_why(tau2):
    env = Tau2Env()
    wrong = [call("create_task", user_id="user_1", title="Another Meeting"), BYE]
    text, reward, over, _, info = played(env, MEETING, wrong)
    assert (text, reward, over, info["success"]) == (STOP, 0.0, True, False)
    assert info["reward_info"]["reward_breakdown"] == {"DB": 0.0, "ENV_ASSERTION": 1.0}
    assert (info["user"], info["user_cost"]) == ("scripted-full", 0.0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(BYE)


def test_errors_of_tools_are_observations_and_do_not_count_in_the_reward(tau2):
    env = Tau2Env()
    env.reset(seed=0, options={"task": MEETING})
    for action, said in (
        (call("update_task_status", task_id="task_99", status="completed"), "Error: Task task_99 not found"),
        (call("no_such_tool"), "Error: Tool 'no_such_tool' not found"),
        (call("create_task", requestor="user"), "Error: "),
        ('{"name": "create_task", "arguments": 3}', "must be a JSON object"),
        ('{"name": "create_task", "arguments": {"user_id": "user_9", "title": "\\ud800"}}', "Error: "),
        (" ", "the message is empty"),
    ):
        text, reward, over, truncated, info = env.step(action)
        assert said in text
        assert (reward, over, truncated, info["role"]) == (0.0, False, False, "tool")
    env.step(call("create_task", user_id="user_1", title="Important Meeting"))
    assert env.step(BYE)[1] == 1.0


def test_half_a_surrogate_reaches_no_tool(tau2):
    env = Tau2Env()
    env.reset(seed=0, options={"task": MEETING})
    made = env.step('{"name": "create_task", "arguments": {"user_id": "user_1", "title": "\\ud800"}}')[0]
    assert json.loads(made)["title"] == "\ufffd"


def test_an_episode_ends_after_too_many_errors_or_steps(tau2):
    env = Tau2Env(max_errors=3, max_steps=5)
    for action, steps in ((call("no_such_tool"), 3), ("{", 5)):  # "{" is a message to the customer
        env.reset(seed=0, options={"task": MEETING})
        for number in range(1, steps + 1):
            _, reward, over, truncated, info = env.step(action)
            assert (over, truncated) == (False, number == steps)
        assert (reward, info["success"], info["reward_info"]) == (0.0, False, None)


def test_a_tower_of_powers_is_not_computed(tau2):
    env = Tau2Env()
    env.reset(seed=0, options={"task": MEETING})
    assert env.step(call("calculate", expression="9 ** 9 ** 9 ** 9"))[0] == "Error: powers are not supported"


def test_without_a_customer_the_ticket_is_read_and_messages_are_refused(tau2):
    env = Tau2Env(user="solo")
    text, info = env.reset(seed=0, options={"task": MEETING})
    assert "Important Meeting" in text
    assert (info["user"], info["plain_replies"], info["tools"][-1]["function"]["name"]) == ("solo", False, "done")
    text, _, over, _, info = env.step("Dear customer,")
    assert (over, info["role"]) == (False, "tool")
    assert "nobody reads messages" in text


def test_a_task_that_is_not_played_is_named_with_its_reason(tau2):
    env = Tau2Env(split="all")
    assert not set(env.refused) & set(env.task_ids)
    with pytest.raises(ValueError, match="cannot be played here: it begins in the middle of a conversation"):
        env.reset(options={"task": "update_task_with_message_history"})
    with pytest.raises(ValueError, match="expected one of task_ids"):
        Tau2Env(split="validation").reset(options={"task": MEETING})


@pytest.mark.parametrize(("domain", "user"), [("retail", "scripted"), ("airline", "scripted"), ("telecom", "solo")])
def test_the_reference_solves_a_task_of_a_large_domain(tau2, domain, user):
    folder = tau2.utils.DATA_DIR / "tau2" / "domains" / domain
    if not (folder / "tasks.json").is_file() or not any(folder.glob("db.*")):
        pytest.skip(f"needs the tasks and the database of the domain {domain}")
    env = Tau2Env(domain, split="test", user=user)
    task = next(
        task
        for task in env.task_ids
        if len(env._tasks[task].evaluation_criteria.actions or ()) > 1 and not floor(env, task)
    )
    assert played(env, task, reference(env, task))[4]["success"] is True
    assert played(env, task, [call("done") if user == "solo" else BYE])[4]["success"] is False


def floor(env, task):
    return env.reset(seed=0, options={"task": task})[1]["do_nothing_succeeds"]


def test_assertions_for_a_judge_are_left_out_and_listed(tau2):
    """No task of ``mock`` has them in its reward, so one gets them here."""
    env = Tau2Env(without_judge=True)
    criteria = env._tasks[MEETING].evaluation_criteria
    judge = type(criteria.reward_basis[0])("NL_ASSERTION")
    criteria.nl_assertions, criteria.reward_basis = ["The agent is polite."], [*criteria.reward_basis, judge]
    _, info = env.reset(seed=0, options={"task": MEETING})
    assert info["unjudged"] == ["The agent is polite."]
    _, reward, *_, info = played(env, MEETING, reference(env, MEETING))
    assert (reward, info["unjudged"], "scoring_error" in info) == (1.0, ["The agent is polite."], False)


def test_it_is_trained_for_two_steps(tau2, tiny_config, tiny_data, fit):
    long = {**tiny_config, "max_position_embeddings": 8192}  # the tokenizer knows few words
    policy = HuggingFacePolicy(config=long, tokenizer="hero_pl:pocket-shop", parser=PlainText(), max_length=8192)
    objective = SelfDistillation(reflector=NoReflector(), teacher=FeedbackOnlyTeacher())
    module = HeroModule(policy, objective, lr=1e-2, warmup_steps=0)
    trainer = fit(module, tiny_data(env="hero_pl/Tau2-v0", limits=Limits(max_turns=2)), steps=2)
    assert trainer.global_step == 2
    assert module.turns >= 4
