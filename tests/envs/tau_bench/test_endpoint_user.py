"""The endpoint user against a real HTTP server on this machine; ``test_chat_endpoint.py`` tests the endpoint itself."""

from typing import Any

import pytest

from hero_envs.chat_endpoint import EndpointDown, SpendCapReached
from hero_envs.tau_bench.env import TauBenchEnv
from hero_envs.tau_bench.expert import ScriptedExpert
from hero_envs.tau_bench.users.endpoint import EndpointUser, shared_endpoint
from hero_envs.tau_bench.users.scripted import ScriptedUser
from hero_pl.errors import ConfigError, EndpointError, SpendCapError
from hero_pl.evaluation.summary import summarize
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import StopReason, Trajectory
from tests.chat_server import Handler, answers, fails, hangs, says, serving, strikes, struck


def test_the_key_goes_into_the_header_and_never_unencrypted_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERO_TEST_KEY", "secret")
    with serving(says("Hi.")) as server:
        EndpointUser(server.url, "tiny", api_key_variable="HERO_TEST_KEY").reset("You are Mia.")
        EndpointUser(server.url, "tiny", api_key_variable="NO_SUCH_KEY").reset("You are Mia.")
        assert server.keys == ["Bearer secret", None]
    with pytest.raises(ValueError, match="unencrypted") as error:
        EndpointUser("http://example.invalid/v1", "tiny", api_key_variable="HERO_TEST_KEY")
    assert "HERO_TEST_KEY" in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ftp://localhost"}, "user: .*expected http"),
        ({"spend_cap": 1.0}, "a cap needs"),
        ({"max_retries": -1}, "0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused_when_the_environment_is_made(options: Any, message: str) -> None:
    user = {"url": "http://localhost/v1", "model": "tiny", **options}
    with pytest.raises(ConfigError, match=message):
        Collector("hero_pl/PocketRetail-v0", {"size": 30, "tasks": 60, "user": user})


def test_users_with_the_same_settings_share_one_endpoint_and_its_cap() -> None:
    options: dict[str, Any] = {"reply_price": 100.0, "spend_cap": 0.025, "prompt_price": 0.0}
    with serving(says("Hi.", prompt=0, reply=100)) as server:
        first, second = (EndpointUser(server.url, "tiny", max_tokens=100, **options) for _ in range(2))
        other = EndpointUser(server.url, "tiny", max_tokens=100, **{**options, "spend_cap": 1.0})
        assert first.endpoint is second.endpoint is not other.endpoint
        # Each call costs 100 tokens, 0.0001 a token: 0.01. The cap lets two calls through.
        first.reset("You are Mia.")
        second.reset("You are Mia.")
        assert first.cost == second.cost == pytest.approx(0.01)
        with pytest.raises(SpendCapReached):
            first.step("Yes?")
    assert shared_endpoint(server.url, "tiny", **options) is first.endpoint


def test_an_endpoint_that_was_given_up_is_not_shared_with_users_made_later() -> None:
    with serving(fails(401), says("Hi.")) as server:
        first = EndpointUser(server.url, "tiny")
        with pytest.raises(EndpointDown):
            first.reset("You are Mia.")
        assert EndpointUser(server.url, "tiny").reset("You are Mia.") == "Hi."


def test_a_dialogue_is_played_over_http_and_its_cost_is_added_up() -> None:
    with serving(says("Hi, I need help."), says("It is 19122."), says("###STOP###")) as server:
        user = EndpointUser(server.url, "tiny", prompt_price=1.0)
        assert user.reset("You are Yusuf in 19122.") == "Hi, I need help."
        assert user.step("Your zip code?") == "It is 19122."
        assert user.step("Done.") == "###STOP###"
        assert user.cost == pytest.approx(3 * 100 / 1e6)
        roles = [message["role"] for message in server.bodies[2]["messages"]]
        assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
        user.reset("You are Mia.")
        assert user.cost == pytest.approx(100 / 1e6)


def plays_the_instruction(handler: Handler) -> None:
    """A server that answers like the scripted user: it parses the instruction and the dialogue in the request."""
    messages = handler.body["messages"]
    instruction = messages[0]["content"].partition("Instruction: ")[2].partition("\n\nHow to play")[0]
    user = ScriptedUser()
    reply = user.reset(instruction)
    for message in messages[2:]:
        if message["role"] == "user":
            reply = user.step(message["content"])
    says(reply)(handler)


def test_a_retail_task_is_solved_over_http_through_every_kind_of_failure() -> None:
    first, second = [fails(429, Retry_After="7"), fails(503)], [answers('{"choices": ['), hangs]
    waits: list[float] = []
    with serving(*first, plays_the_instruction, *second, plays_the_instruction) as server:
        user = {"url": server.url, "model": "tiny", "timeout_s": 1.0, "prompt_price": 1.0}
        user |= {"sleep": waits.append, "chance": lambda: 0.0}
        env = TauBenchEnv("pocket_retail", size=30, tasks=60, user=user)
        observation, info = env.reset(options={"task": "train-0"})
        expert, terminated, reward = ScriptedExpert(), False, 0.0
        while not terminated:
            observation, reward, terminated, _, info = env.step(expert.act(observation))
        replies = len(server.bodies) - 4
    assert (reward, info["user"]) == (1.0, "llm:tiny")
    assert waits == [7.0, 1.0, 0.5, 1.0]
    # 100 tokens a reply; the response that was not JSON is booked at the most that it can have cost.
    assert info["user_cost"] > replies * 100 / 1e6


def played(user: dict[str, Any], episodes: int = 2, **limits: Any) -> list[Trajectory]:
    """A number of episodes with a user."""
    policy = ScriptedPolicy(["Hello?"])
    policy.load()
    user = {"model": "tiny", "sleep": lambda seconds: None, **user}
    settings = {"size": 30, "tasks": 60, "user": user}
    collector = Collector("hero_pl/PocketRetail-v0", settings, limits=Limits(max_turns=3, **limits))
    return collector.collect([EpisodeSpec(task, 0, 0) for task in collector.task_ids[:episodes]], policy, Sampling())


def test_a_user_that_dies_breaks_its_own_episode_which_is_counted_apart() -> None:
    with serving(says("One."), says("Two."), fails(500), fails(500), says("###STOP###")) as server:
        episodes = played({"url": server.url, "max_retries": 1})
    assert [episode.first_observation for episode in episodes] == ["One.", "Two."]
    assert [episode.stop_reason for episode in episodes] == [StopReason.ENDPOINT_ERROR, StopReason.TERMINATED]
    assert "status 500" in episodes[0].info["error"]
    result = summarize(episodes)
    assert (result["episodes"], result["non_evaluable"], result["user"]) == (1, 1, "llm:tiny")


def test_a_user_that_does_not_begin_breaks_its_episode_alone() -> None:
    with serving(says("One."), fails(500), says("###STOP###")) as server:
        episodes = played({"url": server.url, "max_retries": 0}, 3, num_envs=1)
    assert [episode.stop_reason for episode in episodes] == [StopReason.ENDPOINT_ERROR, *[StopReason.TERMINATED] * 2]


@pytest.mark.parametrize("threads", [0, 4])
def test_a_dead_server_ends_the_run_however_many_episodes_are_in_flight(threads: int) -> None:
    with serving(*[says("Hi.")] * 6, fails(500)) as server:
        with pytest.raises(EndpointError, match=r"3 questions in a row without an answer.*status 500"):
            played({"url": server.url, "max_retries": 0, "max_failures": 3}, 6, threads=threads)
        assert 6 + 3 <= len(server.bodies) <= 6 + 3 + threads


@pytest.mark.parametrize("threads", [0, 4])
def test_a_refused_key_ends_the_run_within_one_call(threads: int) -> None:
    with serving(fails(401, "who are you?")) as server:
        with pytest.raises(EndpointError, match=r"answered 401 for model 'tiny': 'who are you\?'"):
            played({"url": server.url}, 6, threads=threads)
        assert len(server.bodies) == 1


def test_the_spend_cap_ends_the_run_with_an_error_of_its_own() -> None:
    with serving(says("Hi.", prompt=0, reply=100)) as server:
        user = {"url": server.url, "max_tokens": 100, "reply_price": 100.0, "spend_cap": 0.035}
        with pytest.raises(SpendCapError, match=r"0\.03 of spend_cap=0\.035 are spent"):
            played(user, 2)
        assert len(server.bodies) == 3


def test_an_error_does_not_wait_for_users_in_other_threads() -> None:
    def refuses_when_all_wait(handler: Handler) -> None:
        while len(handler.server.bodies) < 6 and not handler.server.over.wait(0.001):
            pass
        fails(403)(handler)

    with (
        serving(*[says("Hi.")] * 3, hangs, hangs, refuses_when_all_wait) as server,
        pytest.raises(EndpointError, match="answered 403"),
    ):
        played({"url": server.url, "timeout_s": 5.0, "max_retries": 1}, 3, threads=3)


def test_a_signal_does_not_wait_for_users_in_other_threads() -> None:
    with serving(*[says("Hi.")] * 3, hangs, hangs, strikes(6), hangs) as server, struck():
        played({"url": server.url, "timeout_s": 5.0, "max_retries": 1}, 3, threads=3)
    assert len(server.bodies) == 6
