"""Against a real HTTP server on this machine, which answers from a script. What the client does by itself is tested in
``tests/envs/test_chat_endpoint.py``.
"""

import json
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hero_pl.errors import ConfigError, EndpointError, SpendCapError
from hero_pl.reflection.chat_reflector import ChatReflector
from hero_pl.reflection.grammar import review_schema
from hero_pl.types import Message, Trajectory
from tests.chat_server import Behavior, Server, answers, fails, hangs, says, serving, strikes, struck

GOOD = {f"turn{i}": {"diagnosis": f"Step {i} was sound.", "confidence": "high"} for i in (1, 2, 3)}
ASK = [Message("user", "Hello?")]


def chat(content: Any) -> Behavior:
    return says(content if isinstance(content, str) else json.dumps(content), prompt=100, reply=20)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(chat(GOOD)) as server:
        yield server


def reflector(server: Server, **options: Any) -> ChatReflector:
    return ChatReflector(server.url, "judge", **{"backoff_s": 0.0, **options})


def test_a_reflection_comes_back_parsed_with_its_tokens(server: Server, trajectory: Trajectory) -> None:
    (reflection,) = reflector(server).reflect([trajectory], None)
    assert [diagnosis and diagnosis.text for diagnosis in reflection.diagnoses] == [
        f"Step {i} was sound." for i in (1, 2, 3)
    ]
    assert (reflection.status, reflection.strict, reflection.tokens) == ("ok", True, 20)
    (asked,) = server.bodies
    assert server.paths == ["/v1/chat/completions"]
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("judge", 0.0, 96 * 3 + 64)
    assert server.keys == [None]


def test_order_is_kept_with_many_requests_in_flight(server: Server, make_trajectory: Any) -> None:
    episodes = [make_trajectory(["a"] * turns, ["b"] * turns) for turns in (1, 2, 3, 1, 2, 3)]
    reflections = reflector(server, concurrency=6).reflect(episodes, None)
    assert [len(one.diagnoses) for one in reflections] == [1, 2, 3, 1, 2, 3]
    assert reflector(server).reflect([], None) == []


def test_the_key_is_sent_and_a_missing_one_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    reflector(server, api_key_env="JUDGE_KEY").endpoint.ask(ASK, 5, 0.0)
    assert server.keys[0] == "Bearer secret"
    with pytest.raises(ConfigError, match=r"'NO_SUCH_KEY'.*not set"):
        reflector(server, api_key_env="NO_SUCH_KEY")


def test_a_key_that_would_be_sent_unencrypted_to_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with pytest.raises(ConfigError, match=r"unencrypted to judge\.example") as caught:
        ChatReflector("http://judge.example/v1", "judge", api_key_env="JUDGE_KEY")
    assert "secret" not in str(caught.value)


def test_what_a_request_does_not_show_is_an_issue(server: Server, make_trajectory: Any) -> None:
    episode = make_trajectory(["a", "b", "c"], ["r" * 150, "ok", "ok"])
    (reflection,) = reflector(server, max_reply_chars=100).reflect([episode], None)
    assert (reflection.status, reflection.strict, reflection.issues) == ("ok", True, (("reply_cut", 1),))


def test_extra_fields_are_added_and_null_removes_one(server: Server) -> None:
    extra = {"max_tokens": None, "max_completion_tokens": 9, "seed": 3}
    reflector(server, extra_body=extra).endpoint.ask(ASK, 5, 0.0)
    assert server.bodies[0].keys() == {"model", "messages", "temperature", "max_completion_tokens", "seed"}


@pytest.mark.parametrize("broken", [fails(429, Retry_After="0"), fails(503), answers("<html>"), says(None, 0, 0)])
def test_what_may_pass_is_asked_again_and_empty_text_is_an_answer(
    broken: Behavior, server: Server, trajectory: Trajectory
) -> None:
    server.behaviors = [broken, chat(GOOD)]
    (reflection,) = reflector(server, on_invalid="retry").reflect([trajectory], None)
    assert (reflection.status, len(server.bodies)) == ("ok", 2)


def test_a_request_without_an_answer_is_data(server: Server, trajectory: Trajectory) -> None:
    server.behaviors = [chat(GOOD), fails(503)]
    reflections = reflector(server, max_retries=2, concurrency=1).reflect([trajectory] * 2, None)
    assert [one.issues for one in reflections] == [(), (("request_failed", 0),)]
    assert (reflections[1].status, reflections[1].diagnoses) == ("rejected", (None, None, None))
    assert len(server.bodies) == 4


def test_a_refused_request_costs_only_its_episode(server: Server, trajectory: Trajectory) -> None:
    server.behaviors = [chat(GOOD), fails(400, "too long"), chat(GOOD)]
    reflections = reflector(server, concurrency=1).reflect([trajectory] * 3, None)
    assert [one.issues for one in reflections] == [(), (("request_refused", 0),), ()]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302])
def test_an_endpoint_that_will_never_answer_stops_the_run_within_one_call(
    status: int, server: Server, trajectory: Trajectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-abcdefgh12345678")
    server.behaviors = [fails(status, "no such model for sk-abcdefgh12345678", Location=f"{server.url}/other")]
    with pytest.raises(EndpointError, match=f"answered {status}.*'judge'.*no such model") as caught:
        reflector(server, api_key_env="JUDGE_KEY").reflect([trajectory] * 200, None)
    assert "abcdefgh" not in str(caught.value)
    assert server.paths == ["/v1/chat/completions"]


def test_an_endpoint_that_has_died_stops_the_run(server: Server, trajectory: Trajectory) -> None:
    server.behaviors = [chat(GOOD), fails(503)]
    judge = reflector(server, max_retries=0, max_failures=20, concurrency=1)
    with pytest.raises(EndpointError, match="20 questions in a row"):
        judge.reflect([trajectory] * 200, None)
    assert len(server.bodies) == 21


def test_bug_843_the_cap_stops_the_run_and_holds_across_resumes(server: Server, trajectory: Trajectory) -> None:
    first = reflector(server, max_total_tokens=100_000)
    first.reflect([trajectory], None)
    assert first.state_dict() == {"spent_tokens": 120}
    resumed = reflector(server, max_total_tokens=130)
    resumed.load_state_dict(first.state_dict())
    with pytest.raises(SpendCapError, match="120 of max_total_tokens=130"):
        resumed.reflect([trajectory], None)
    assert len(server.bodies) == 1
    interrupted = reflector(server, max_total_tokens=100_000, max_retries=0, max_failures=1, concurrency=1)
    interrupted.load_state_dict(first.state_dict())
    server.behaviors = [chat(GOOD), fails(503)]
    with pytest.raises(EndpointError):
        interrupted.reflect([trajectory] * 3, None)
    assert interrupted.state_dict() == {"spent_tokens": 240}


def one_of_two(rank: int, folder: Path, url: str, trajectory: Trajectory, counts: list[int], spent: int) -> None:
    """Resume with a count of spent tokens, review, and write the state and what this process has spent."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    reflector = ChatReflector(url, "judge", max_total_tokens=100_000)
    reflector.load_state_dict({"spent_tokens": spent})
    reflector.reflect([trajectory] * counts[rank], None)
    found = [reflector.state_dict(), reflector.endpoint.spent_tokens]
    (folder / str(rank)).write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()


def test_bug_811_the_count_of_a_checkpoint_is_that_of_all_processes(
    server: Server, trajectory: Trajectory, tmp_path: Path
) -> None:
    given = (tmp_path, server.url, trajectory, [1, 3], 600)
    torch.multiprocessing.spawn(one_of_two, given, nprocs=2)  # type: ignore[no-untyped-call]
    found = [json.loads((tmp_path / str(rank)).read_text(encoding="utf-8")) for rank in range(2)]
    assert [spent for _, spent in found] == [300 + 120, 300 + 3 * 120]  # each took half of the count of one process
    assert [state for state, _ in found] == [{"spent_tokens": 600 + 4 * 120}] * 2
    alone = reflector(server, max_total_tokens=1100)
    alone.load_state_dict(found[0][0])
    with pytest.raises(SpendCapError, match="1080 of max_total_tokens=1100"):
        alone.reflect([trajectory], None)


def test_reservations_do_not_reach_the_cap(server: Server, trajectory: Trajectory) -> None:
    reflector(server).reflect([trajectory], None)
    (asked,) = server.bodies
    texts = [text for message in asked["messages"] for text in message.values()]
    most = sum(len(text.encode()) // 2 + 1 for text in texts) + asked["max_tokens"]
    judge = reflector(server, max_total_tokens=most + 7 * 120, concurrency=8)  # one at a time may be on its way
    assert all(all(one.diagnoses) for one in judge.reflect([trajectory] * 8, None))
    assert judge.endpoint.spent_tokens == 8 * 120


def test_a_signal_does_not_wait_for_answers(server: Server, trajectory: Trajectory) -> None:
    server.behaviors = [chat(GOOD), hangs, hangs, strikes(4), hangs]
    with struck():
        reflector(server, timeout_s=5.0, max_retries=1, concurrency=3).reflect([trajectory] * 9, None)
    assert len(server.bodies) == 4


@pytest.mark.parametrize("switch", [True, False])
def test_the_schema_of_the_review_goes_along_if_wanted(switch: bool, server: Server, make_trajectory: Any) -> None:
    episode = make_trajectory(["a" * 900] * 3, ["b" * 900] * 3)
    server.behaviors = [chat({f"turn{i}": GOOD[f"turn{i}"]}) for i in (1, 2, 3)]
    options = {"max_request_chars": 100, "concurrency": 1, "max_diagnosis_chars": 60}
    (reflection,) = reflector(server, response_format=switch, **options).reflect([episode], None)
    assert all(reflection.diagnoses)
    for number, asked in enumerate(server.bodies, 1):
        shape = asked.get("response_format")
        assert (shape is not None) is switch
        if shape:
            assert (shape["type"], shape["json_schema"]["name"]) == ("json_schema", "review")
            assert shape["json_schema"]["schema"] == review_schema(episode, (number, number), 60)


@pytest.mark.parametrize(
    ("text", "reason", "issue", "found"),
    [
        ("Perhaps {} is right, but", "length", "unfinished_reasoning", 0),
        ("Perhaps {} is right.", "stop", "", 3),  # words around a review
        ("{", "length", "", 2),  # a review that was cut
        ("so I think</think>{}", "length", "thinking_stripped", 3),
        ("<think>Perhaps {} is right, but", None, "unfinished_reasoning", 0),  # the server does not say why it ended
    ],
)
def test_bug_759_a_draft_in_reasoning_that_the_prompt_opened_is_no_review(
    text: str, reason: str | None, issue: str, found: int, server: Server, trajectory: Trajectory
) -> None:
    review = json.dumps(GOOD)
    text = review[: review.index('"turn3"') + 20] if text == "{" else text.replace("{}", review)
    server.behaviors = [says(text, reason=reason)]
    (reflection,) = reflector(server).reflect([trajectory], None)
    assert sum(diagnosis is not None for diagnosis in reflection.diagnoses) == found
    if issue:
        assert (issue, 0) in reflection.issues


def test_skip_leaves_an_invalid_answer_alone(server: Server, trajectory: Trajectory) -> None:
    server.behaviors = [chat("I think it went well."), chat(GOOD)]
    (reflection,) = reflector(server).reflect([trajectory], None)
    assert (reflection.status, len(server.bodies)) == ("rejected", 1)


def test_retry_asks_again_with_the_errors_and_a_little_warmer(server: Server, trajectory: Trajectory) -> None:
    first = {"turn1": GOOD["turn1"], "turn3": {"diagnosis": "n/a"}}
    server.behaviors = [chat(first), chat(GOOD)]
    (reflection,) = reflector(server, on_invalid="retry").reflect([trajectory], None)
    assert (reflection.status, all(reflection.diagnoses), reflection.issues, reflection.tokens) == (
        "ok",
        True,
        (("retried", 0),),
        40,
    )
    again = server.bodies[1]
    assert again["temperature"] == pytest.approx(0.2)
    assert [message["role"] for message in again["messages"]] == ["system", "user", "assistant", "user"]
    assert again["messages"][2]["content"] == json.dumps(first)
    assert "turn2: the entry is missing" in again["messages"][3]["content"]
    assert "turn3: the diagnosis is missing or empty" in again["messages"][3]["content"]


def test_retry_keeps_the_first_answer_when_the_second_is_no_better(server: Server, trajectory: Trajectory) -> None:
    server.behaviors = [chat({"turn1": GOOD["turn1"]}), chat("sorry"), chat(GOOD)]
    (reflection,) = reflector(server, on_invalid="retry").reflect([trajectory], None)
    assert [bool(diagnosis) for diagnosis in reflection.diagnoses] == [True, False, False]
    assert len(server.bodies) == 2


def test_retry_can_ask_more_than_once_and_stops_when_the_answer_is_whole(
    server: Server, trajectory: Trajectory
) -> None:
    server.behaviors = [chat("hm"), chat({"turn1": GOOD["turn1"]}), chat(GOOD), chat("never asked")]
    (reflection,) = reflector(server, on_invalid="retry", retries=5).reflect([trajectory], None)
    assert all(reflection.diagnoses)
    assert (reflection.issues, reflection.tokens) == ((("retried", 0),) * 2, 60)
    assert [asked["temperature"] for asked in server.bodies] == pytest.approx([0.0, 0.2, 0.4])


def test_a_complete_answer_is_not_asked_again(server: Server, trajectory: Trajectory) -> None:
    reflector(server, on_invalid="retry").reflect([trajectory], None)
    assert len(server.bodies) == 1


def test_a_long_episode_is_asked_in_windows_and_joined(server: Server, make_trajectory: Any) -> None:
    episode = make_trajectory(["a" * 900] * 3, ["b" * 900] * 3)
    server.behaviors = [chat({f"turn{i}": GOOD[f"turn{i}"]}) for i in (1, 2, 3)]
    (reflection,) = reflector(server, max_request_chars=100, concurrency=1).reflect([episode], None)
    assert [diagnosis and diagnosis.text for diagnosis in reflection.diagnoses] == [
        f"Step {i} was sound." for i in (1, 2, 3)
    ]
    assert (reflection.status, reflection.tokens, len(server.bodies)) == ("ok", 60, 3)


def test_leaks_are_checked_with_the_given_policy(server: Server, trajectory: Trajectory) -> None:
    server.behaviors = [chat({**GOOD, "turn1": {"diagnosis": "Refund 8301557 now.", "confidence": "high"}})]
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
        *({"max_reply_chars": 50}, {"max_request_chars": 0}, {"temperature": float("nan")}),
    ],
)
def test_bug_864_a_setting_out_of_range_is_refused(options: dict[str, Any]) -> None:
    values: dict[str, Any] = {"base_url": "http://localhost", "model": "m", **options}
    with pytest.raises(ConfigError, match=next(iter(options))):
        ChatReflector(**values)


def test_several_processes_share_the_limit_of_tokens(monkeypatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    monkeypatch.setattr(
        "torch.distributed.all_gather_object", lambda found, own: operator.setitem(found, slice(4), [own] * 4)
    )
    reflector = ChatReflector("http://localhost:9", "judge", max_total_tokens=1000)
    assert reflector.reflect([], None) == []
    assert reflector.endpoint._spending.cap == 250
