"""Against a real HTTP server on this machine, which answers from a script."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hero_pl.errors import ConfigError, ReflectionError
from hero_pl.reflection.chat_endpoint import ChatEndpoint
from hero_pl.reflection.chat_reflector import ChatReflector
from hero_pl.types import Message, Trajectory

GOOD = {f"turn{i}": {"diagnosis": f"Step {i} was sound.", "confidence": "high"} for i in (1, 2, 3)}
ASK = [Message("user", "Hello?")]


def chat(content: Any, usage: Any = None) -> tuple[int, dict[str, str], str]:
    content = content if isinstance(content, str) else json.dumps(content)
    answer: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": content}}]}
    return 200, {}, json.dumps({**answer, "usage": usage or {"prompt_tokens": 100, "completion_tokens": 20}})


class Server:
    """Answers with ``script`` in order, its last entry for ever, and keeps what it was asked."""

    def __init__(self) -> None:
        self.script: list[tuple[int, dict[str, str], str]] = [chat(GOOD)]
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    server.asked.append(json.loads(body))
                    server.headers.append(dict(self.headers.items()))
                    server.paths.append(self.path)
                    status, headers, text = server.script.pop(0) if len(server.script) > 1 else server.script[0]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                data = text.encode()
                self.send_header("Content-Length", headers.get("X-Length", str(len(data))))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def reflector(server: Server, **options: Any) -> ChatReflector:
    return ChatReflector(server.url, "judge", **{"backoff_s": 0.0, **options})


def test_a_reflection_comes_back_parsed_with_its_tokens(server: Server, trajectory: Trajectory) -> None:
    (found,) = reflector(server).reflect([trajectory], None)
    assert [diagnosis and diagnosis.text for diagnosis in found.diagnoses] == [
        f"Step {i} was sound." for i in (1, 2, 3)
    ]
    assert (found.status, found.strict, found.tokens) == ("ok", True, 20)
    (asked,) = server.asked
    assert server.paths == ["/v1/chat/completions"]
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("judge", 0.0, 96 * 3 + 64)
    assert "Authorization" not in server.headers[0]


def test_order_is_kept_with_many_requests_in_flight(server: Server, make_trajectory: Any) -> None:
    episodes = [make_trajectory(["a"] * turns, ["b"] * turns) for turns in (1, 2, 3, 1, 2, 3)]
    found = reflector(server, concurrency=6).reflect(episodes, None)
    assert [len(one.diagnoses) for one in found] == [1, 2, 3, 1, 2, 3]
    assert reflector(server).reflect([], None) == []


def test_the_key_is_sent_and_a_missing_one_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    reflector(server, api_key_env="JUDGE_KEY").endpoint.ask(ASK, 5, 0.0)
    assert server.headers[0]["Authorization"] == "Bearer secret"
    with pytest.raises(ConfigError, match=r"'NO_SUCH_KEY'.*not set"):
        reflector(server, api_key_env="NO_SUCH_KEY")


def test_a_key_that_would_be_sent_unencrypted_to_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with pytest.raises(ConfigError, match=r"unencrypted to judge\.example") as caught:
        ChatReflector("http://judge.example/v1", "judge", api_key_env="JUDGE_KEY")
    assert "secret" not in str(caught.value)


def test_what_a_request_does_not_show_is_an_issue(server: Server, make_trajectory: Any) -> None:
    episode = make_trajectory(["a", "b", "c"], ["r" * 150, "ok", "ok"])
    (found,) = reflector(server, max_reply_chars=100).reflect([episode], None)
    assert (found.status, found.strict, found.issues) == ("ok", True, (("reply_cut", 1),))


def test_extra_fields_are_added_and_null_removes_one(server: Server) -> None:
    extra = {"max_tokens": None, "max_completion_tokens": 9, "seed": 3}
    reflector(server, extra_body=extra).endpoint.ask(ASK, 5, 0.0)
    assert server.asked[0].keys() == {"model", "messages", "temperature", "max_completion_tokens", "seed"}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_a_transient_error_is_tried_again(status: int, server: Server, trajectory: Trajectory) -> None:
    server.script = [(status, {}, "busy"), (status, {"Retry-After": "0"}, "busy"), chat(GOOD)]
    (found,) = reflector(server).reflect([trajectory], None)
    assert (found.status, len(server.asked)) == ("ok", 3)


@pytest.mark.parametrize(
    "broken",
    [(200, {}, "<html>"), (200, {}, '{"error": "x"}'), (200, {}, '{"choices": []}'), (200, {"X-Length": "99"}, "{}")],
)
def test_an_answer_that_is_no_chat_completion_is_tried_again(
    broken: tuple[int, dict[str, str], str], server: Server, trajectory: Trajectory
) -> None:
    server.script = [broken, chat(GOOD)]
    (found,) = reflector(server).reflect([trajectory], None)
    assert (found.status, len(server.asked)) == ("ok", 2)


def test_retries_are_bounded_and_failure_is_data(server: Server, trajectory: Trajectory) -> None:
    server.script = [(503, {}, "down")]
    (found,) = reflector(server, max_retries=2).reflect([trajectory], None)
    assert (found.status, found.issues, found.diagnoses) == ("rejected", (("request_failed", 0),), (None, None, None))
    assert len(server.asked) == 3


def test_retry_after_overrides_the_backoff_and_is_bounded(server: Server) -> None:
    past, beyond = "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:" + "9" * 30
    server.script = [(429, {"Retry-After": value}, "") for value in ("7", past, "3600", "soon", beyond)] + [chat("x")]
    waits: list[float] = []
    endpoint = ChatEndpoint(server.url, "m", backoff_s=0.5, max_retries=5, max_wait_s=60.0, sleep=waits.append)
    assert endpoint.ask(ASK, 5, 0.0).text == "x"
    assert waits == [7.0, 0.0, 60.0, 4.0, 8.0]  # the last two say nothing: 0.5 * 2**3 and 0.5 * 2**4


def test_there_is_no_pause_after_the_last_try(server: Server) -> None:
    server.script = [(503, {}, "down")]
    waits: list[float] = []
    assert ChatEndpoint(server.url, "m", max_retries=2, sleep=waits.append).ask(ASK, 5, 0.0).failure == "request_failed"
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_costs_only_its_episode(status: int, server: Server, trajectory: Trajectory) -> None:
    server.script = [(status, {}, "too long"), chat(GOOD)]
    found = reflector(server, concurrency=1).reflect([trajectory, trajectory], None)
    assert [one.issues for one in found] == [(("request_refused", 0),), ()]
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_an_endpoint_that_will_never_answer_stops_the_run(status: int, server: Server, trajectory: Trajectory) -> None:
    server.script = [(status, {"Location": f"{server.url}/other"}, "no such model")]
    with pytest.raises(ReflectionError, match=f"answered {status}.*'judge'.*no such model"):
        reflector(server, concurrency=1).reflect([trajectory] * 200, None)
    assert set(server.paths) == {"/v1/chat/completions"}
    assert len(server.asked) < 200  # the rest was never sent


def test_nothing_listening_is_a_failure_not_an_exception(trajectory: Trajectory) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        port = closed.server_port
    judge = ChatReflector(f"http://127.0.0.1:{port}", "judge", max_retries=1, backoff_s=0.0)
    assert judge.reflect([trajectory], None)[0].issues == (("request_failed", 0),)


def test_the_spend_cap_stops_before_the_request_that_may_exceed_it(server: Server) -> None:
    endpoint = ChatEndpoint(server.url, "m", max_total_tokens=250)
    assert endpoint.ask(ASK, 50, 0.0).tokens == 20
    endpoint.ask(ASK, 50, 0.0)
    assert endpoint.spent_tokens == 240
    with pytest.raises(ReflectionError, match=r"240 of max_total_tokens=250 are spent"):
        endpoint.ask(ASK, 50, 0.0)
    assert len(server.asked) == 2


@pytest.mark.parametrize("broken", [(200, {}, "<html>"), (200, {}, "[" * 100_000), (200, {}, '{"choices": []}')])
def test_an_answer_that_cannot_be_read_counts_for_the_cap(
    broken: tuple[int, dict[str, str], str], server: Server
) -> None:
    # "Hello?" is taken for 6 // 3 + 1 tokens, so each of the three tries may take 53; a busy server takes none.
    server.script = [(503, {}, "busy"), broken]
    endpoint = ChatEndpoint(server.url, "m", max_total_tokens=120, backoff_s=0.0)
    with pytest.raises(ReflectionError, match="106 of max_total_tokens=120 are spent, 0 are in flight"):
        endpoint.ask(ASK, 50, 0.0)
    assert (endpoint.spent_tokens, len(server.asked)) == (106, 3)


def test_the_cap_holds_across_a_resume(server: Server, trajectory: Trajectory) -> None:
    first = reflector(server, max_total_tokens=10_000)
    first.reflect([trajectory], None)
    assert first.state_dict() == {"spent_tokens": 120}
    resumed = reflector(server, max_total_tokens=130)
    resumed.load_state_dict(first.state_dict())
    with pytest.raises(ReflectionError, match="120 of max_total_tokens=130"):
        resumed.reflect([trajectory], None)


@pytest.mark.parametrize(
    "usage",
    ["none", {"prompt_tokens": None}, {"completion_tokens": "many"}, {"prompt_tokens": -9, "completion_tokens": -9}],
)
def test_tokens_are_estimated_when_the_endpoint_does_not_count(usage: Any, server: Server) -> None:
    server.script = [chat("a" * 300, usage)]
    endpoint = ChatEndpoint(server.url, "m")
    assert endpoint.ask([Message("user", "b" * 600)], 5, 0.0).tokens == 101
    assert endpoint.spent_tokens == 101 + 201


def test_lone_surrogates_of_an_episode_can_be_sent(server: Server) -> None:
    assert not ChatEndpoint(server.url, "m").ask([Message("user", "a\ud800b")], 5, 0.0).failure
    assert server.asked[0]["messages"][0]["content"] == "a\ufffdb"


def test_empty_and_listed_content_are_read(server: Server) -> None:
    endpoint = ChatEndpoint(server.url, "m")
    contents: list[tuple[Any, str]] = [
        (None, ""),
        ([{"type": "text", "text": "a"}, {"text": "b"}, {"text": [1]}, "c"], "ab"),
        (3, ""),
    ]
    for content, text in contents:
        server.script = [(200, {}, json.dumps({"choices": [{"message": {"content": content}}]}))]
        assert endpoint.ask(ASK, 5, 0.0).text == text


def test_skip_leaves_an_invalid_answer_alone(server: Server, trajectory: Trajectory) -> None:
    server.script = [chat("I think it went well."), chat(GOOD)]
    (found,) = reflector(server).reflect([trajectory], None)
    assert (found.status, len(server.asked)) == ("rejected", 1)


def test_retry_asks_again_with_the_errors_and_a_little_warmer(server: Server, trajectory: Trajectory) -> None:
    first = {"turn1": GOOD["turn1"], "turn3": {"diagnosis": "n/a"}}
    server.script = [chat(first), chat(GOOD)]
    (found,) = reflector(server, on_invalid="retry").reflect([trajectory], None)
    assert (found.status, all(found.diagnoses), found.issues, found.tokens) == ("ok", True, (("retried", 0),), 40)
    again = server.asked[1]
    assert again["temperature"] == pytest.approx(0.2)
    assert [message["role"] for message in again["messages"]] == ["system", "user", "assistant", "user"]
    assert again["messages"][2]["content"] == json.dumps(first)
    assert "turn2: the entry is missing" in again["messages"][3]["content"]
    assert "turn3: the diagnosis is missing or empty" in again["messages"][3]["content"]


def test_retry_keeps_the_first_answer_when_the_second_is_no_better(server: Server, trajectory: Trajectory) -> None:
    server.script = [chat({"turn1": GOOD["turn1"]}), chat("sorry"), chat(GOOD)]
    (found,) = reflector(server, on_invalid="retry").reflect([trajectory], None)
    assert [bool(diagnosis) for diagnosis in found.diagnoses] == [True, False, False]
    assert len(server.asked) == 2


def test_retry_can_ask_more_than_once_and_stops_when_the_answer_is_whole(
    server: Server, trajectory: Trajectory
) -> None:
    server.script = [chat("hm"), chat({"turn1": GOOD["turn1"]}), chat(GOOD), chat("never asked")]
    (found,) = reflector(server, on_invalid="retry", retries=5).reflect([trajectory], None)
    assert all(found.diagnoses)
    assert (found.issues, found.tokens) == ((("retried", 0),) * 2, 60)
    assert [asked["temperature"] for asked in server.asked] == pytest.approx([0.0, 0.2, 0.4])


def test_a_complete_answer_is_not_asked_again(server: Server, trajectory: Trajectory) -> None:
    reflector(server, on_invalid="retry").reflect([trajectory], None)
    assert len(server.asked) == 1


def test_a_long_episode_is_asked_in_windows_and_joined(server: Server, make_trajectory: Any) -> None:
    episode = make_trajectory(["a" * 900] * 3, ["b" * 900] * 3)
    server.script = [chat({f"turn{i}": GOOD[f"turn{i}"]}) for i in (1, 2, 3)]
    (found,) = reflector(server, max_request_chars=100, concurrency=1).reflect([episode], None)
    assert [diagnosis and diagnosis.text for diagnosis in found.diagnoses] == [
        f"Step {i} was sound." for i in (1, 2, 3)
    ]
    assert (found.status, found.tokens, len(server.asked)) == ("ok", 60, 3)


def test_leaks_are_checked_with_the_given_policy(server: Server, trajectory: Trajectory) -> None:
    server.script = [chat({**GOOD, "turn1": {"diagnosis": "Refund 8301557 now.", "confidence": "high"}})]
    (dropped,) = reflector(server).reflect([trajectory], None)
    (redacted,) = reflector(server, leak_policy="redact").reflect([trajectory], None)
    assert dropped.diagnoses[0] is None
    assert redacted.diagnoses[0] is not None
    assert redacted.diagnoses[0].text == "Refund [redacted] now."


@pytest.mark.parametrize(
    "options",
    [
        *(
            {"on_invalid": "panic"},
            {"retries": 0},
            {"temperature": -0.1},
            {"concurrency": 0},
            {"base_url": "file:///etc/passwd"},
        ),
        *({"timeout_s": 0.0}, {"max_retries": -1}, {"backoff_s": -1.0}, {"max_total_tokens": 0}),
    ],
)
def test_a_setting_out_of_range_is_refused(options: dict[str, Any]) -> None:
    values: dict[str, Any] = {"base_url": "http://localhost", "model": "m", **options}
    with pytest.raises(ConfigError, match=next(iter(options))):
        ChatReflector(**values)
