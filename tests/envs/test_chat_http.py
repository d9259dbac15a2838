"""One chat request against a real local HTTP server with programmed faults. No test waits for real time."""

import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hero_envs import chat_http
from hero_envs.chat_http import (
    MAX_TOKENS,
    MAX_WAIT_S,
    REFUSED,
    TRANSIENT,
    Calls,
    ChatFailure,
    ChatRefusal,
    ChatServer,
    encodable,
    retry_after_s,
    token_count,
)
from tests.chat_server import Behavior, Handler, answers, drips, hangs, serving

GOOD = b'{"choices": [{"message": {"content": "Hi."}}]}'


def failure_of(behavior: Callable[[Handler], None], **options: Any) -> ChatFailure:
    with serving(behavior) as server, pytest.raises(ChatFailure) as caught:
        ChatServer(server.url, **{"timeout_s": 60.0, **options}).post({})
    return caught.value


def test_a_request_goes_out_as_utf_8_with_its_key_and_the_answer_comes_back_decoded() -> None:
    with serving(answers(GOOD)) as server:
        answer = ChatServer(f"{server.url}/", 60.0, "secret").post({"model": "tiny", "messages": [{"content": "né"}]})
    assert answer == json.loads(GOOD)
    assert server.paths == ["/v1/chat/completions"]
    assert server.keys == ["Bearer secret"]
    assert server.bodies == [{"model": "tiny", "messages": [{"content": "né"}]}]


def test_lone_surrogates_are_not_sent() -> None:
    with serving(answers(GOOD)) as server:
        ChatServer(server.url, 60.0).post({"messages": [{"content": "a\ud800b"}], "\udfff": ["\ud83d\ude00"]})
    assert server.bodies == [{"messages": [{"content": "a\ufffdb"}], "\ufffd": ["\U0001f600"]}]
    assert encodable("\ufeffa\ud800b né") == "\ufeffa\ufffdb né"


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 522, 529])
def test_a_status_that_may_pass_is_a_failure_that_costs_nothing(status: int) -> None:
    failure = failure_of(answers(b"busy", status, Retry_After="7"))
    assert (str(failure), failure.wait_s, failure.paid) == (f"status {status}, 'busy'", 7.0, False)
    assert failure_of(answers(b"busy", status)).wait_s is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501, 505])
def test_any_other_status_is_a_refusal(status: int) -> None:
    with serving(answers(b"no such model", status)) as server, pytest.raises(ChatRefusal) as caught:
        ChatServer(server.url, 60.0).post({})
    assert (str(caught.value), caught.value.status) == (f"status {status}, 'no such model'", status)
    assert not REFUSED & TRANSIENT


@pytest.mark.parametrize("echo", ["bad key sk-ab/cd12345678", '{"key":"sk-ab\\/cd12345678"}', "cd12345678 is no key"])
@pytest.mark.parametrize("status", [401, 200])
def test_a_key_that_the_server_echoes_is_not_shown(echo: str, status: int) -> None:
    body = json.dumps([echo]) if status == 200 else echo
    with serving(answers(body.encode(), status)) as server, pytest.raises((ChatRefusal, ChatFailure)) as caught:
        ChatServer(server.url, 60.0, "sk-ab/cd12345678").post({})
    assert "[key]" in str(caught.value)
    assert "12345678" not in str(caught.value)


def test_a_redirect_is_not_followed() -> None:
    redirects = answers(b"", 302, Location="/v1/elsewhere")
    with serving(redirects) as server, pytest.raises(ChatRefusal, match="status 302"):
        ChatServer(server.url, 60.0, "secret").post({})
    assert server.paths == ["/v1/chat/completions"]


# 1445412480 is 2015-10-21 07:28:00 UTC.
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        *(("7", 7.0), (" 0.5 ", 0.5), ("-3", 0.0), ("1e400", MAX_WAIT_S), ("9" * 5000, MAX_WAIT_S)),
        *(("nan", None), ("soon", None), ("", None)),
        ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_WAIT_S),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:" + "9" * 30 + " GMT", None),  # an OverflowError
    ],
)
def test_a_pause_is_a_number_or_a_date_and_bounded(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, 1445412480.0) == seconds


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of this machine cannot be set")
def test_a_date_without_a_zone_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "EST+5")
            time.tzset()
            assert retry_after_s("Wed Oct 21 07:28:10 2015", 1445412480.0) == 10.0
    finally:
        time.tzset()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        *((b"", "not JSON"), (b"<html>", "not JSON"), (b"\xff\xfe", "not JSON"), (b"[" * 100_000, "RecursionError")),
        (b'{"choices": ' + b"9" * 5000 + b"}", "not JSON"),
        *((b"[]", "not a chat"), (b'{"error": 1}', "not a chat"), (b'{"choices": []}', "not a chat")),
        *((b'{"choices": {"0": 1}}', "not a chat"), ("[]".encode("utf-16"), "not a chat"), (b'"\x7f"', r"\x7f")),
    ],
)
def test_an_answer_that_cannot_be_read_is_a_failure_and_paid(body: bytes, reason: str) -> None:
    failure = failure_of(answers(body))
    assert reason in str(failure)
    assert failure.paid


def test_a_long_answer_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(handler: Handler) -> None:
        answers(GOOD + b" " * 200, Content_Length="1000000000")(handler)
        handler.server.over.wait(5)

    monkeypatch.setattr(chat_http, "MAX_BYTES", 100)
    failure = failure_of(endless)
    assert "more than 100 bytes" in str(failure)
    assert failure.paid


def floods_headers(handler: Handler) -> None:
    answers(GOOD, **{f"X-{i}": "x" * 8000 for i in range(5)})(handler)


def floods_body(handler: Handler) -> None:
    answers(GOOD + b" " * 300_000)(handler)


@pytest.mark.parametrize("behavior", [floods_headers, floods_body])
def test_the_time_limit_is_for_the_whole_call(behavior: Callable[[Handler], None]) -> None:
    # A second passes at each look at the clock: one for the start, two to connect, two for what is sent, and one is
    # left to receive.
    failure = failure_of(behavior, timeout_s=6.0, clock=itertools.count().__next__)
    assert str(failure) == "no complete response within 6.0 s"
    assert failure.paid
    with serving(behavior) as server:
        assert ChatServer(server.url, 60.0, clock=lambda: 0.0).post({}) == json.loads(GOOD)


def test_a_server_that_says_nothing_is_given_what_is_left_of_the_time() -> None:
    # Nothing has passed when the request is out; then all of the minute but a hundredth of a second.
    clock = itertools.chain([0.0] * 5, itertools.repeat(59.99)).__next__
    failure = failure_of(lambda handler: handler.server.over.wait(5) and None, clock=clock)
    assert (str(failure), failure.paid) == ("no complete response within 60.0 s", True)


@pytest.mark.parametrize("seconds", [1.0, 2.0, 3.0, 4.0])
def test_connecting_and_sending_have_a_time_limit_too(seconds: float) -> None:
    failure = failure_of(answers(GOOD), timeout_s=seconds, clock=itertools.count().__next__)
    assert (str(failure), failure.paid) == (f"no complete response within {seconds} s", False)


@pytest.mark.parametrize("behavior", [hangs, drips])
def test_a_call_that_waits_ends_when_another_thread_ends_it(behavior: Behavior) -> None:
    with serving(behavior) as server, ThreadPoolExecutor(1) as pool:
        chat, calls = ChatServer(server.url, 60.0), Calls()
        call = pool.submit(chat.post, {}, calls)
        while not server.paths:
            time.sleep(0.001)
        calls.end()
        assert isinstance(call.exception(), ChatFailure)
        with pytest.raises(ChatFailure, match="the call was ended"):
            chat.post({}, calls)
        assert len(server.paths) == 1


def test_an_answer_that_breaks_off_is_a_failure_and_paid() -> None:
    failure = failure_of(answers(b"40\r\n{}", Transfer_Encoding="chunked"))
    assert "connection failed (IncompleteRead" in str(failure)
    assert failure.paid


@pytest.mark.parametrize(
    "url", ["http://" + "x" * 70 + "/v1", "https://127.0.0.1:{port}/v1", "http://127.0.0.1:{closed}/v1"]
)
def test_no_connection_is_a_failure(url: str) -> None:
    with serving(answers(GOOD)) as closed:
        pass
    with serving(answers(GOOD)) as server, pytest.raises(ChatFailure, match="connection failed") as caught:
        ChatServer(url.format(port=server.server_port, closed=closed.server_port), 60.0).post({})
    assert not caught.value.paid


@pytest.mark.parametrize("status_line", [True, False])
def test_what_the_server_wrote_is_shortened_and_escaped_in_messages(status_line: bool) -> None:
    wild = b"\x1b[31mred\xff" + b"x" * 10_000

    def writes_no_http(handler: Handler) -> None:
        handler.wfile.write(wild + b"\r\n\r\n")

    behavior = writes_no_http if status_line else answers(wild, 404)
    with serving(behavior) as server, pytest.raises((ChatFailure, ChatRefusal)) as caught:
        ChatServer(server.url, 60.0).post({})
    message = str(caught.value)
    assert r"\x1b[31mred" in message
    assert "\x1b" not in message
    assert len(message) < 300


@pytest.mark.parametrize("host", ["judge.example", "localhost.example", "127.0.0.1.example", "10.0.0.1"])
def test_a_key_does_not_leave_this_machine_unencrypted(host: str) -> None:
    with pytest.raises(ValueError, match=f"unencrypted to {host}") as caught:
        ChatServer(f"http://{host}/v1", 60.0, "secret")
    assert "secret" not in str(caught.value)
    ChatServer(f"http://{host}/v1", 60.0)
    ChatServer(f"https://{host}/v1", 60.0, "secret")
    for local in ("localhost", "LOCALHOST", "127.0.0.1", "[::1]"):
        ChatServer(f"http://{local}:8000/v1", 60.0, "secret")


@pytest.mark.parametrize("key", ["secret\n", "sec ret", "sécret", "secret\r\nX: y"])
def test_a_key_that_cannot_stand_in_a_header_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="API key has invalid characters") as caught:
        ChatServer("https://judge.example/v1", 60.0, key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000/v1", "ftp://localhost/v1", "file:///etc/passwd", "http://", "http:///v1"),
        *("http://localhost:x/v1", "http://localhost:99999/v1", "http://localhost:0/v1", "http://[::1/v1"),
        *("http://localhost/v1?a=b", "http://localhost/v1#a", "http://localhost/a b", "http://localhost/é"),
        *("http://localhost/v1\n", "http://user:secret@localhost/v1"),
    ],
)
def test_an_address_that_cannot_work_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected http\(s\)://host\[:port\]/path") as caught:
        ChatServer(url, 60.0)
    assert "secret" not in str(caught.value)


def test_a_proxy_is_used_for_other_machines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(answers(GOOD)) as proxy, serving(answers(GOOD)) as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        ChatServer(server.url, 60.0, "secret").post({})
        assert (len(server.paths), proxy.paths) == (1, [])
        ChatServer("http://judge.invalid/v1", 60.0).post({})
        assert proxy.paths == ["http://judge.invalid/v1/chat/completions"]
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(ChatFailure, match=r"connection failed.*socks5"):
        ChatServer("http://judge.invalid/v1", 60.0).post({})


@pytest.mark.parametrize("value", [None, True, -1, MAX_TOKENS + 1, 10**400, 2.0, "7", [7]])
def test_an_impossible_count_of_tokens_is_not_used(value: Any) -> None:
    assert token_count({"usage": {"prompt_tokens": value}}, "prompt_tokens") is None
    assert token_count({"usage": [value]}, "prompt_tokens") is None
    assert token_count({}, "prompt_tokens") is None
    assert token_count({"usage": {"prompt_tokens": 0}}, "prompt_tokens") == 0
