"""The customer of a tau2-bench task."""

import json
from types import SimpleNamespace

import pytest

from hero_envs.bridges.tau2 import Tau2Env
from hero_envs.bridges.tau2_user import MAX_CALLS, Customer, customer_of
from hero_envs.chat_endpoint import EndpointDown, RequestFailed
from hero_envs.tau_bench.users.base import STOP, User, UserError
from hero_envs.tau_bench.users.recorded import RecordedUser
from hero_envs.tau_bench.users.scripted import ScriptedUser
from tests.chat_server import answers, fails, serving

MEETING = "create_task_1_with_env_assertions"


@pytest.mark.parametrize("user", ["llm", {"llm": "x", "temperature": 1.0}, {"model": "x"}, {}, 3])
def test_an_unknown_user_is_refused(user):
    with pytest.raises(ValueError, match="expected 'scripted', 'solo', a mapping with llm"):
        customer_of(None, user)


class Listener(User):
    """Keeps what it is told."""

    def reset(self, instruction):
        self.told = instruction
        return "Hello"

    def step(self, agent_message):
        return STOP


class Reader(ScriptedUser):
    """A scripted user that keeps what it is told."""

    def reset(self, instruction):
        self.told = instruction
        return super().reset(instruction)


def test_bug_887_a_customer_is_told_what_it_does_not_know_and_a_model_who_it_is():
    said = SimpleNamespace(
        known_info="You are Ada. ",
        unknown_info="You forgot the order.",
        reason_for_call="Lost.",
        task_instructions=None,
    )
    tau2 = SimpleNamespace(message=SimpleNamespace(UserMessage=lambda role, content: content))
    facts = "You are Ada.\nYou forgot the order.\nLost."
    for user, persona, instructions, told in (
        (Listener(), "You are curt.", said, f"You are curt.\n{facts}"),
        (Listener(), None, "Say hello.", "Say hello."),
        (Reader("full"), "You are curt.", said, facts),
    ):
        task = SimpleNamespace(user_scenario=SimpleNamespace(persona=persona, instructions=instructions))
        Customer(tau2, user).begin(task, None, None, None)
        assert user.told == told


def simulated(server, **more):
    """The argument ``user`` for tau2-bench's own simulator on a server of this machine."""
    llm_args = {"api_base": server.url, "api_key": "none", "num_retries": 0, "max_retries": 0, **more}
    return {"llm": "openai/stub", "llm_args": llm_args}


def completes(**message):
    """A chat completion with the fields that tau2-bench reads: also the name of the model."""
    value = {
        "model": "stub",
        "choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }
    return answers(json.dumps(value), Content_Type="application/json")


def says(text):
    return completes(content=text)


def calls(name, **arguments):
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    return completes(content=None, tool_calls=[call])


@pytest.mark.bridge
def test_the_simulator_plays_the_instructions_and_its_tokens_are_counted(tau2):
    with serving(says("Please create a task."), says(STOP)) as server:
        env = Tau2Env(user=simulated(server))
        for _ in range(2):  # the second episode counts from zero
            server.behaviors[:] = [says("Please create a task."), says(STOP)]
            text, info = env.reset(seed=7, options={"task": MEETING})
            assert (text, info["user"], "user_is_faithful" in info) == (
                "Please create a task.",
                "tau2:openai/stub",
                False,
            )
            text, reward, over, _, info = env.step("No.")
            assert (text, reward, over, info["role"]) == (STOP, 0.0, True, "user")
            assert info["user_tokens"] == {"prompt_tokens": 200, "completion_tokens": 20}
            assert info["user_cost"] == 0.0
    first, second = server.bodies[:2]
    assert "Important Meeting" in first["messages"][0]["content"]
    assert first["messages"][-1]["content"] == "Hi! How can I help you today?"
    assert second["messages"][-1]["content"] == "No."
    assert first["seed"] == 7


@pytest.mark.bridge
@pytest.mark.parametrize(("status", "error"), [(500, RequestFailed), (401, EndpointDown)])
def test_a_model_that_does_not_answer_breaks_the_episode_or_ends_the_run(tau2, status, error):
    with serving(fails(status)) as server:
        env = Tau2Env(user=simulated(server))
        with pytest.raises(error, match="customer's model 'openai/stub' failed"):
            env.reset(seed=0)


@pytest.mark.bridge
def test_the_customer_uses_its_own_tools_before_it_answers(tau2):
    domain = tau2.utils.DATA_DIR / "tau2" / "domains" / "telecom"
    if not (domain / "tasks.json").is_file():
        pytest.skip("needs the tasks of the domain telecom")
    with serving(calls("check_status_bar")) as server:
        env = Tau2Env("telecom", user=simulated(server))
        server.behaviors[:] = [says("No signal."), calls("check_status_bar"), says("It shows no bars.")]
        assert env.reset(seed=0)[0] == "No signal."
        text, *_, info = env.step("What does the status bar show?")
        assert (text, info["role"]) == ("It shows no bars.", "user")
        assert [message["role"] for message in server.bodies[-1]["messages"][-2:]] == ["assistant", "tool"]
        server.behaviors[:] = [calls("check_status_bar")]
        with pytest.raises(UserError, match=f"called tools {MAX_CALLS} times"):
            env.step("And now?")


@pytest.mark.bridge
def test_a_user_without_tools_can_be_given(tau2):
    env = Tau2Env(user=RecordedUser(["Bye."], opening="Hi \ud800"))
    text, info = env.reset(seed=0)
    assert (text, info["user"], info["plain_replies"]) == ("Hi \ufffd", "recorded", True)
    assert [env.step("Hm.")[0], env.step("Hm.")[0]] == ["Bye.", STOP]
