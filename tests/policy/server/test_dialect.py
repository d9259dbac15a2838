"""Requests to a server, and which of its replies are accepted."""

import copy
from typing import Any

import pytest

from hero_pl.policy.server.dialect import Served, UnusableReply, WrongWeights, read_reply, request
from hero_pl.types import FinishReason

ENDS = frozenset({2, 7})
ADAPTER = Served("hero-1a-3", 5)
FOLDER = Served("student", 5, label="hero-1a-3")
GOOD: dict[str, Any] = {
    "model": "hero-1a-3",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "token_ids": [4, 5, 7],
            "logprobs": {"content": [{"token_id": i, "logprob": -0.5} for i in (4, 5, 7)]},
            "weight_versions": [{"version": "hero-1a-3", "start": 0, "end": 3}],
        }
    ],
}


def test_a_request_sets_everything_that_shapes_the_distribution() -> None:
    body = request(ADAPTER, (1, 2), 12, 0.7, 99, ENDS)
    assert (body["model"], body["token_ids"], body["stream"]) == ("hero-1a-3", [1, 2], False)
    assert body["sampling_params"] == {
        "n": 1,
        "temperature": 0.7,
        "seed": 99,
        "max_tokens": 12,
        "min_tokens": 0,
        "top_k": -1,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": [2, 7],
        "ignore_eos": True,
        "logprobs": 0,
        "detokenize": False,
    }


@pytest.mark.parametrize("served", [ADAPTER, FOLDER])
def test_a_whole_reply_is_read(served: Served) -> None:
    reply = read_reply({**GOOD, "model": served.model}, served, 12, ENDS)
    assert (reply.ids, reply.logprobs, reply.finish_reason) == ((4, 5, 7), (-0.5,) * 3, FinishReason.STOP)


def test_a_reply_that_the_context_cut_short_is_length() -> None:
    answer = changed(finish_reason="length", token_ids=[4, 5, 6])
    answer["choices"][0]["logprobs"]["content"][2]["token_id"] = 6
    assert read_reply(answer, ADAPTER, 12, ENDS).finish_reason is FinishReason.LENGTH


def changed(**choice: Any) -> dict[str, Any]:
    answer = copy.deepcopy(GOOD)
    answer["choices"][0] |= choice
    return answer


def content(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {"content": [{"token_id": token, "logprob": value} for token, value in pairs]}


UNUSABLE = {
    "no_choice": ({"model": "hero-1a-3", "choices": []}, "exactly one choice"),
    "two_choices": ({"model": "hero-1a-3", "choices": [{}, {}]}, "exactly one choice"),
    "no_ids": (changed(token_ids=None), "list of token ids"),
    "words": (changed(token_ids=["4", 5, 7]), "list of token ids"),
    "truth": (changed(token_ids=[True, 5, 7]), "list of token ids"),
    "empty": (changed(token_ids=[]), "0 ids"),
    "too_long": (changed(token_ids=[4] * 13), "13 ids, expected 1 to 12"),
    "goes_on": (changed(token_ids=[4, 2, 7]), "after the end of the turn"),
    "aborted": (changed(token_ids=[4, 5, 6], finish_reason="abort"), "'abort' without an end"),
    "no_logprobs": (changed(logprobs=None), "one log-probability per id"),
    "fewer_logprobs": (changed(logprobs=content((4, -1.0), (5, -1.0))), "one log-probability per id"),
    "of_other_ids": (changed(logprobs=content((4, -1.0), (6, -1.0), (7, -1.0))), "of each id"),
    "infinite": (changed(logprobs=content((4, -1.0), (5, float("-inf")), (7, -1.0))), "of each id"),
    "positive": (changed(logprobs=content((4, -1.0), (5, 0.5), (7, -1.0))), "of each id"),
    "missing": (changed(logprobs=content((4, -1.0), (5, None), (7, -1.0))), "of each id"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_reply_that_contradicts_itself_is_unusable(case: str) -> None:
    answer, reason = UNUSABLE[case]
    with pytest.raises(UnusableReply, match=reason) as caught:
        read_reply(answer, ADAPTER, 12, ENDS)
    assert not isinstance(caught.value, WrongWeights)


@pytest.mark.parametrize("model", ["hero-1a-2", "student", None])
def test_a_reply_of_another_adapter_is_of_wrong_weights(model: str | None) -> None:
    with pytest.raises(WrongWeights, match=r"expected 'hero-1a-3'"):
        read_reply({**GOOD, "model": model}, ADAPTER, 12, ENDS)


SPANS: dict[str, Any] = {
    "former": [{"version": "hero-1a-2", "start": 0, "end": 3}],
    "never_told": [{"version": "default", "start": 0, "end": 3}],
    "changed_midway": [{"version": "hero-1a-3", "start": 0, "end": 2}, {"version": "hero-1a-2", "start": 2, "end": 3}],
    "only_the_start": [{"version": "hero-1a-3", "start": 0, "end": 2}],
    "hole": [{"version": "hero-1a-3", "start": 1, "end": 3}],
    "nothing": None,
    "empty": [],
    "no_list": "hero-1a-3",
}


@pytest.mark.parametrize("case", SPANS)
def test_every_id_must_be_drawn_by_the_weights_of_the_label(case: str) -> None:
    with pytest.raises(WrongWeights, match=r"expected 'hero-1a-3'"):
        read_reply({**changed(weight_versions=SPANS[case]), "model": "student"}, FOLDER, 12, ENDS)
