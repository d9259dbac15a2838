"""The endpoint user against a real HTTP server on this machine that misbehaves on request."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hero_envs.tau_bench.env import TauBenchEnv
from hero_envs.tau_bench.expert import ScriptedExpert
from hero_envs.tau_bench.users.base import UserError
from hero_envs.tau_bench.users.endpoint import Endpoint, EndpointUser
from hero_envs.tau_bench.users.scripted import ScriptedUser
from hero_pl.evaluation.summary import summarize
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.limits import Limits
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.types import StopReason

HELLO = [{"role": "user", "content": "Hello"}]


class Server(ThreadingHTTPServer):
    """Answers the n-th request with the n-th behavior; the last one repeats."""

    def __init__(self, behaviors: list[Callable[["Handler"], None]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviors = behaviors
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        number = len(self.server.requests)
        self.server.requests.append({"path": self.path, **json.loads(body)})
        self.server.authorizations.append(self.headers.get("Authorization"))
        self.server.behaviors[min(number, len(self.server.behaviors) - 1)](self)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def says(text: str | None, prompt: int = 100, reply: int = 10) -> Callable[[Handler], None]:
    value = {
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": reply},
    }
    return lambda handler: handler.answer(200, json.dumps(value).encode(), Content_Type="application/json")


def fails(status: int, **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(status, b'{"error": "no"}', **headers)


def sends(body: bytes) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(200, body)


def hangs(handler: Handler) -> None:
    handler.server.release.wait(20)


@contextmanager
def serving(*behaviors: Callable[[Handler], None]) -> Iterator[Server]:
    server = Server(list(behaviors))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_reply_arrives_and_its_cost_is_booked() -> None:
    with serving(says("Hi there.", prompt=1000, reply=200)) as server:
        endpoint = Endpoint(server.url, "tiny", prompt_price=1.0, reply_price=10.0)
        assert endpoint(HELLO) == "Hi there."
        # 1000 / 1e6 * 1 + 200 / 1e6 * 10
        assert endpoint.spent == pytest.approx(0.003)
        assert server.requests[0]["path"] == "/v1/chat/completions"
        assert server.requests[0]["messages"] == HELLO
        assert server.requests[0]["model"] == "tiny"


def test_429_is_retried_after_the_seconds_that_the_server_asks_for() -> None:
    waits: list[float] = []
    with serving(fails(429, Retry_After="7"), fails(429), says("Now.")) as server:
        assert Endpoint(server.url, "tiny", sleep=waits.append)(HELLO) == "Now."
    assert waits == [7.0, 1.0]


def test_retry_after_may_be_a_date() -> None:
    waits: list[float] = []
    with serving(fails(429, Retry_After=formatdate(usegmt=True)), says("Now.")) as server:
        assert Endpoint(server.url, "tiny", sleep=waits.append)(HELLO) == "Now."
    assert waits == [0.0]


def test_a_server_that_asks_for_too_long_a_pause_is_given_up_at_once() -> None:
    waits: list[float] = []
    with serving(fails(429, Retry_After="3600"), says("Never.")) as server:
        with pytest.raises(UserError, match="longer than max_wait_s"):
            Endpoint(server.url, "tiny", max_wait_s=60, sleep=waits.append)(HELLO)
        assert len(server.requests) == 1
    assert waits == []


def test_a_failing_server_is_asked_again_a_bounded_number_of_times() -> None:
    waits: list[float] = []
    with serving(fails(500), fails(503), says("Back.")) as server:
        assert Endpoint(server.url, "tiny", sleep=waits.append)(HELLO) == "Back."
    assert waits == [0.5, 1.0]
    with serving(fails(502)) as server:
        with pytest.raises(UserError, match="3 tries: status 502"):
            Endpoint(server.url, "tiny", max_retries=2, sleep=waits.append)(HELLO)
        assert len(server.requests) == 3


def test_a_hung_reply_is_cut_off_and_asked_for_again() -> None:
    with serving(hangs, says("Awake.")) as server:
        endpoint = Endpoint(server.url, "tiny", timeout_s=0.3, sleep=lambda _: None)
        assert endpoint(HELLO) == "Awake."
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": {"content": 5}}]}',
        b'{"choices": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b"\xff\xfe",
    ],
)
def test_a_malformed_response_is_asked_for_again(body: bytes) -> None:
    with serving(sends(body), says("Fine.")) as server:
        assert Endpoint(server.url, "tiny", sleep=lambda _: None)(HELLO) == "Fine."


@pytest.mark.parametrize("body", [b"not json", b'{"choices": [{"message": null}]}'])
def test_a_reply_that_cannot_be_read_is_booked_at_the_most_it_can_have_cost(body: bytes) -> None:
    with serving(fails(503), sends(body)) as server:
        # 100 tokens at 0.0001 each: 0.01 a call. A busy server costs nothing, so the cap lets three calls through.
        endpoint = Endpoint(
            server.url, "tiny", max_tokens=100, reply_price=100.0, spend_cap=0.025, sleep=lambda _: None
        )
        with pytest.raises(UserError, match="spend cap"):
            endpoint(HELLO)
        assert endpoint.spent == pytest.approx(0.02)
        assert len(server.requests) == endpoint.calls == 3


def test_a_refused_request_is_not_repeated() -> None:
    with serving(fails(401)) as server:
        with pytest.raises(UserError, match=r"""status 401, '{"error": "no"}'"""):
            Endpoint(server.url, "tiny", sleep=lambda _: None)(HELLO)
        assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_a_user_error() -> None:
    with serving(says("Hi.")) as server:
        url = server.url
    with pytest.raises(UserError, match="connection failed"):
        Endpoint(url, "tiny", max_retries=1, sleep=lambda _: None)(HELLO)


def test_the_spend_cap_stops_before_it_is_passed() -> None:
    with serving(says("Hi.", prompt=0, reply=100)) as server:
        # Each call costs 100 tokens, 0.0001 a token: 0.01. The cap lets two calls through.
        endpoint = Endpoint(server.url, "tiny", max_tokens=100, reply_price=100.0, spend_cap=0.025)
        endpoint(HELLO)
        endpoint(HELLO)
        with pytest.raises(UserError, match="spend cap"):
            endpoint(HELLO)
        assert len(server.requests) == 2
        assert endpoint.spent == pytest.approx(0.02)


def test_the_key_goes_into_the_header_and_never_unencrypted_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERO_TEST_KEY", "secret")
    with serving(says("Hi.")) as server:
        Endpoint(server.url, "tiny", api_key_variable="HERO_TEST_KEY")(HELLO)
        assert server.authorizations == ["Bearer secret"]
    with pytest.raises(UserError, match="unencrypted") as error:
        Endpoint("http://example.invalid/v1", "tiny", api_key_variable="HERO_TEST_KEY")(HELLO)
    assert "HERO_TEST_KEY" in str(error.value)
    assert "secret" not in str(error.value)


def test_settings_that_cannot_work_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"Endpoint: url='ftp://localhost'.*expected http"):
        Endpoint("ftp://localhost", "tiny")
    with pytest.raises(ValueError, match="a cap needs"):
        Endpoint("http://localhost/v1", "tiny", spend_cap=1.0)


def test_lone_surrogates_are_neither_sent_nor_received() -> None:
    with serving(says("bad \ud800 reply")) as server:
        assert Endpoint(server.url, "tiny")([{"role": "user", "content": "x\udfff"}]) == "bad \ufffd reply"
        assert server.requests[0]["messages"][0]["content"] == "x\ufffd"


def test_a_dialogue_is_played_over_http_and_its_cost_is_added_up() -> None:
    with serving(says("Hi, I need help."), says("It is 19122."), says("###STOP###")) as server:
        user = EndpointUser(server.url, "tiny", prompt_price=1.0)
        assert user.reset("You are Yusuf in 19122.") == "Hi, I need help."
        assert user.step("Your zip code?") == "It is 19122."
        assert user.step("Done.") == "###STOP###"
        assert user.cost == pytest.approx(3 * 100 / 1e6)
        roles = [message["role"] for message in server.requests[2]["messages"]]
        assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
        user.reset("You are Mia.")
        assert user.cost == pytest.approx(100 / 1e6)


def plays_the_instruction(handler: Handler) -> None:
    """A server whose model is the scripted user: it reads the instruction and the dialogue out of the request."""
    messages = handler.server.requests[-1]["messages"]
    instruction = messages[0]["content"].partition("Instruction: ")[2].partition("\n\nHow to play")[0]
    user = ScriptedUser()
    reply = user.reset(instruction)
    for message in messages[2:]:
        if message["role"] == "user":
            reply = user.step(message["content"])
    says(reply)(handler)


def test_a_retail_task_is_solved_over_http_through_every_kind_of_failure() -> None:
    first, second = [fails(429, Retry_After="7"), fails(503)], [sends(b'{"choices": ['), hangs]
    waits: list[float] = []
    with serving(*first, plays_the_instruction, *second, plays_the_instruction) as server:
        user = {"url": server.url, "model": "tiny", "timeout_s": 1.0, "prompt_price": 1.0, "sleep": waits.append}
        env = TauBenchEnv("pocket_retail", size=30, tasks=60, user=user)
        observation, info = env.reset(options={"task": "train-0"})
        expert, terminated, reward = ScriptedExpert(), False, 0.0
        while not terminated:
            observation, reward, terminated, _, info = env.step(expert.act(observation))
        replies = len(server.requests) - 4
    assert (reward, info["user"]) == (1.0, "llm:tiny")
    assert waits == [7.0, 1.0, 0.5, 1.0]
    # 100 tokens a reply; the response that was not JSON is booked at the most that it can have cost.
    assert info["user_cost"] > replies * 100 / 1e6


def test_a_user_that_dies_breaks_its_own_episode_which_is_counted_apart() -> None:
    with serving(says("One."), says("Two."), fails(500), fails(500), says("###STOP###")) as server:
        user = {"url": server.url, "model": "tiny", "max_retries": 1, "sleep": lambda seconds: None}
        policy = ScriptedPolicy(["Hello?"])
        policy.load()
        arguments = {"size": 30, "tasks": 60, "user": user}
        collector = Collector("hero_pl/PocketRetail-v0", arguments, limits=Limits(retries=0))
        specs = [EpisodeSpec(task, 0, 0) for task in collector.task_ids[:2]]
        episodes = collector.collect(specs, policy, Sampling())
    assert [episode.first_observation for episode in episodes] == ["One.", "Two."]
    assert [episode.stop_reason for episode in episodes] == [StopReason.ENV_ERROR, StopReason.TERMINATED]
    assert "status 500" in episodes[0].info["error"]
    result = summarize(episodes)
    assert (result["episodes"], result["non_evaluable"], result["user"]) == (1, 1, "llm:tiny")
