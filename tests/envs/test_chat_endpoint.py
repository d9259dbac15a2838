"""Cases 6 to 10: requests to a server that is busy, broken or silent, refuses, or costs too much."""

import json
import random
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from hero_envs.chat_endpoint import Answer, Endpoint, EndpointDown, RequestFailed, SpendCapReached, Spending
from tests.chat_server import Behavior, Handler, Server, answers, drips, fails, hangs, hangs_up, says, serving

HELLO = [{"role": "user", "content": "Hello"}]
MOST = 4 // 2 + 1 + 5 // 2 + 1 + 50
"""Upper limit of the cost of "user", "Hello" and an answer of 50 tokens: 56 tokens."""


def endpoint(server: Server, **options: Any) -> Endpoint:
    return Endpoint(server.url, "m", **{"sleep": lambda seconds: None, **options})


def ask(one: Endpoint) -> Answer:
    return one.ask(HELLO, 50, 0.0)


def ask_at_once(one: Endpoint, count: int) -> list[Future[Answer]]:
    """Sends a number of requests, each in its own thread, and waits for all."""
    with ThreadPoolExecutor(count) as pool:
        return [pool.submit(ask, one) for _ in range(count)]


# -- what passes (6, 7, 8) ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.99])
def test_a_busy_server_is_left_alone_for_as_long_as_it_asks_but_no_longer_than_the_limit(chance: float) -> None:
    waits: list[float] = []
    busy = [fails(429, Retry_After=seconds) for seconds in ("7", "0", "59.9")]
    with serving(*busy, fails(429, Retry_After="soon"), says("Now.")) as server:
        patient = endpoint(server, backoff_s=2.0, max_wait_s=60.0, sleep=waits.append, chance=lambda: chance)
        assert ask(patient).text == "Now."
        assert len(server.bodies) == 5
    assert waits[:3] == [7.0 + 2.0 * chance, 2.0 * chance, min(59.9 + 2.0 * chance, 60.0)]
    assert waits[3] == 2.0 * 2**3 * (1.0 + chance) / 2.0  # the last header says nothing


def test_pauses_double_up_to_the_limit_and_are_not_alike() -> None:
    def waits(chance: Callable[[], float] | None) -> list[float]:
        result: list[float] = []
        with serving(says("Hi."), fails(503)) as server:
            one = endpoint(server, max_retries=4, max_wait_s=5.0, sleep=result.append, chance=chance)
            ask(one)
            with pytest.raises(RequestFailed):
                ask(one)
        return result

    assert waits(lambda: 1.0) == [1.0, 2.0, 4.0, 5.0]  # and none after the last try
    assert waits(lambda: 0.0) == [0.5, 1.0, 2.0, 2.5]
    random.seed(0)
    before = random.getstate()
    first, second = waits(None), waits(None)
    assert first != second
    assert random.getstate() == before  # training draws from the global generator


def test_a_server_that_asks_for_too_long_a_pause_is_not_asked_again() -> None:
    waits: list[float] = []
    with serving(says("Hi."), fails(429, Retry_After="3600"), says("Never.")) as server:
        one = endpoint(server, max_wait_s=60.0, sleep=waits.append)
        ask(one)
        with pytest.raises(RequestFailed, match=r"status 429.*, and it asks for a pause of 3600 s.*max_wait_s=60"):
            ask(one)
        assert (len(server.bodies), waits) == (2, [])


PASSING: dict[str, Behavior] = {
    **{str(status): fails(status) for status in (408, 429, 500, 502, 503, 529)},
    "reset": hangs_up,
    "half a body": answers(b"{}", Content_Length="99"),
    "no JSON": answers("<html>"),
    "no object": answers("[]"),
    "deep JSON": answers('{"choices": ' + "[" * 100_000),
    "no choices": answers('{"choices": []}'),
    "no message": answers('{"choices": [{}]}'),
    "null message": answers('{"choices": [{"message": null}]}'),
    "a number": says(5),
    "no text": answers(b"\xff\xfe"),
    "silence": hangs,
    "a byte at a time": drips,
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_may_pass_is_tried_again_so_often_and_costs_its_question_alone(fault: str) -> None:
    slow = {"timeout_s": 0.2} if PASSING[fault] in (hangs, drips) else {}
    with serving(PASSING[fault], says("Back."), *[PASSING[fault]] * 3, says("Again.")) as server:
        one = endpoint(server, max_retries=2, **slow)
        assert ask(one).text == "Back."
        with pytest.raises(RequestFailed, match="gave no usable answer in 3 tries") as caught:
            ask(one)
        assert not caught.value.refused
        assert ask(one).text == "Again."
        assert len(server.bodies) == 6


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, ""), ([{"type": "text", "text": "a"}, {"text": "b"}, {"text": [1]}, "c"], "ab"), ("a\ud800", "a\ufffd")],
)
def test_empty_listed_and_unspeakable_content_is_read(content: Any, text: str) -> None:
    with serving(says(content)) as server:
        assert ask(endpoint(server)).text == text


# -- what does not (9) -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302, 501])
def test_a_refused_key_or_model_costs_one_request_however_many_ask(status: int) -> None:
    with serving(fails(status, "bad key sk-abcdefgh12345678")) as server:
        one = endpoint(server, key="sk-abcdefgh12345678")
        errors = [asked.exception() for asked in ask_at_once(one, 8)]
        assert {type(error) for error in errors} == {EndpointDown}
        assert {str(error) for error in errors} == {
            f"{one.url} answered {status} for model 'm': 'bad key [key]'. Check the address, the model and the key."
        }
        assert len(server.bodies) == 1


def test_a_key_that_is_refused_later_ends_what_others_wait_for() -> None:
    def refused_when_all_have_come(handler: Handler) -> None:
        while len(handler.server.bodies) < 9 and not handler.server.over.wait(0.001):
            pass
        fails(401)(handler)

    waiting = threading.Event()
    with serving(says("Hi."), *[hangs] * 6, fails(503), refused_when_all_have_come) as server:
        one = Endpoint(server.url, "m", timeout_s=60.0, backoff_s=60.0, chance=lambda: waiting.set() or 1.0)
        ask(one)
        errors = [asked.exception() for asked in ask_at_once(one, 8)]
        assert {type(error) for error in errors} == {EndpointDown}
        assert len(server.bodies) == 9  # the one that waited for a minute asked no more


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_among_others_costs_its_question_alone(status: int) -> None:
    with serving(says("Hi."), fails(status, "too long"), says("Hi again.")) as server:
        one = endpoint(server)
        ask(one)
        with pytest.raises(RequestFailed, match=f"{status}.*too long.*It answers other requests") as caught:
            ask(one)
        assert caught.value.refused
        assert ask(one).text == "Hi again."
        assert len(server.bodies) == 3


# -- a server that is gone ---------------------------------------------------------------------------------------------


def test_a_server_that_has_never_answered_is_given_up_after_the_first_question() -> None:
    with serving(fails(503)) as server:
        errors = [asked.exception() for asked in ask_at_once(endpoint(server, max_retries=2), 8)]
        assert {type(error) for error in errors} == {EndpointDown}
        assert "has never answered" in str(errors[0])
        assert len(server.bodies) == 3
    with pytest.raises(EndpointDown, match="connection failed"):
        ask(endpoint(server, max_retries=1))


def test_so_many_failures_in_a_row_are_the_end_and_an_answer_in_between_is_not() -> None:
    with serving(says("Hi."), *[fails(500)] * 2, says("Hi."), fails(500)) as server:
        one = endpoint(server, max_retries=0, max_failures=3)
        ask(one)
        for _ in range(2):
            with pytest.raises(RequestFailed):
                ask(one)
        ask(one)
        for _ in range(2):
            with pytest.raises(RequestFailed):
                ask(one)
        for _ in range(2):
            with pytest.raises(EndpointDown, match=r"3 questions in a row.*max_failures.*status 500"):
                ask(one)
        assert len(server.bodies) == 7


def test_canceling_ends_requests_and_pauses_but_not_those_that_come_later() -> None:
    with serving(says("Hi."), hangs, fails(503), says("Later.")) as server, ThreadPoolExecutor(2) as pool:
        pausing = threading.Event()
        one = Endpoint(server.url, "m", timeout_s=60.0, backoff_s=60.0, chance=lambda: pausing.set() or 1.0)
        ask(one)
        asked = [pool.submit(ask, one) for _ in range(2)]
        assert pausing.wait(60)
        one.cancel()
        assert [str(one.exception()) for one in asked] == [f"the request to {one.url} was canceled"] * 2
        assert ask(one).text == "Later."


def test_bug_889_a_request_that_is_canceled_or_given_up_may_be_billed() -> None:
    arrived = threading.Event()

    def waits(handler: Handler) -> None:
        arrived.set()
        hangs(handler)

    with serving(says("Hi.", prompt=10, reply=2), waits) as server, ThreadPoolExecutor(1) as pool:
        one = endpoint(server, max_retries=0)
        ask(one)
        asked = pool.submit(ask, one)
        assert arrived.wait(60)
        one.cancel()
        assert asked.exception()
        assert one.spending.spent == 12 + MOST, "the server had the request"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        late = Endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}", "m", timeout_s=1.0, max_retries=0)
        with pytest.raises(EndpointDown, match=r"no complete response within 1.0 s"):
            ask(late)
        assert late.spending.spent == MOST
    unsent = Endpoint(late.url.removesuffix("/chat/completions"), "m", max_retries=0)
    with pytest.raises(EndpointDown, match=r"connection failed"):
        ask(unsent)
    assert unsent.spending.spent == 0, "nobody got the request"


# -- money (10) --------------------------------------------------------------------------------------------------------


def test_what_is_on_its_way_is_waited_for_and_not_taken_for_spent() -> None:
    flying, most = [0], [0]

    def counts(handler: Handler) -> None:
        with handler.server.lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        reply = says("Hi.", prompt=10, reply=2)
        with handler.server.lock:
            flying[0] -= 1
        reply(handler)

    with serving(counts) as server:
        one = endpoint(server, spending=Spending(3 * MOST - 1))
        replies = [asked.result() for asked in ask_at_once(one, 8)]
        assert [reply.cost for reply in replies] == [12.0] * 8
        assert one.spending.spent == 8 * 12
    assert most[0] <= 2  # three at once might exceed the cap


def test_nothing_is_asked_that_might_exceed_the_cap() -> None:
    with serving(says("Hi.", prompt=100, reply=20)) as server:
        one = endpoint(server, spending=Spending(250, name="max_total_tokens"))
        ask(one)
        ask(one)
        with pytest.raises(SpendCapReached, match=r"240 of max_total_tokens=250 are spent .* may take 56\. Raise"):
            ask(one)
        assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("more", "reply"),
    [
        ({}, 50),
        ({"max_tokens": None, "max_completion_tokens": 500}, 500),
        ({"max_tokens": 500}, 500),
        ({"max_completion_tokens": "500"}, 500),
        ({"max_tokens": 5}, 50),  # the largest, whichever the server takes
        ({"max_tokens": 200, "n": 3}, 600),
        ({"max_tokens": None, "n": None}, 50),
    ],
)
def test_bug_734_a_limit_in_further_fields_counts_for_what_a_request_may_cost(more: dict[str, Any], reply: int) -> None:
    most = MOST - 50 + reply
    with serving(says("Hi.", prompt=1, reply=0)) as server:
        one = endpoint(server, spending=Spending(most))
        one.ask(HELLO, 50, 0.0, more)
        with pytest.raises(SpendCapReached, match=rf"1 of spend_cap={most} are spent .* may take {most}\."):
            one.ask(HELLO, 50, 0.0, more)
        assert len(server.bodies) == 1


@pytest.mark.parametrize("fault", ["no JSON", "deep JSON", "no choices", "half a body"])
def test_an_answer_that_cannot_be_read_is_taken_to_have_cost_the_most_it_could(fault: str) -> None:
    with serving(says("Hi.", 0, 0), fails(503), PASSING[fault]) as server:
        one = endpoint(server, spending=Spending(2 * MOST + 1))
        ask(one)
        with pytest.raises(SpendCapReached, match="112 of spend_cap=113"):  # a busy server costs nothing
            ask(one)
        assert (one.spending.spent, len(server.bodies)) == (2 * MOST, 4)


@pytest.mark.parametrize("usage", ["none", {}, {"prompt_tokens": None}, {"completion_tokens": "many"}, [1]])
def test_an_answer_without_a_count_is_estimated(usage: Any) -> None:
    body = {"choices": [{"message": {"content": "a" * 20}}], "usage": usage}
    with serving(answers(json.dumps(body))) as server:
        answer = ask(endpoint(server))
    assert (answer.tokens, answer.cost) == (11, MOST)


def test_prices_turn_tokens_into_money() -> None:
    with serving(says("Hi.", prompt=1000, reply=200)) as server:
        one = endpoint(server, spending=Spending(None, 1e-6, 10e-6))
        # 1000 / 1e6 * 1 + 200 / 1e6 * 10
        assert ask(one).cost == pytest.approx(0.003)


# -- the request -------------------------------------------------------------------------------------------------------


def test_fields_are_added_and_none_removes_one() -> None:
    with serving(says("Hi.")) as server:
        endpoint(server).ask(HELLO, 5, 0.5, {"max_tokens": None, "seed": 3})
        assert server.bodies == [{"model": "m", "messages": HELLO, "temperature": 0.5, "seed": 3}]


@pytest.mark.parametrize(
    "options",
    [{"timeout_s": 0.0}, {"max_wait_s": -1.0}, {"max_failures": 0}, {"max_retries": -1}, {"backoff_s": -1.0}],
)
def test_a_setting_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}.*expected"):
        Endpoint("http://localhost", "m", **options)
    with pytest.raises(ValueError, match="expected http"):
        Endpoint("file:///etc/passwd", "m")


def test_a_connection_that_is_refused_tells_no_secret() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    with pytest.raises(EndpointDown) as caught:
        ask(Endpoint(url, "m", "sk-abcdefgh12345678", max_retries=0))
    assert "sk-" not in str(caught.value)
