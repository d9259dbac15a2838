"""Requests and replies of vLLM's route for token ids, and the checks of a reply."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from hero_pl.types import FinishReason

GENERATE = "/inference/v1/generate"


@dataclass(frozen=True, slots=True)
class Served:
    """Name and version of weights on the servers."""

    model: str
    """Name in requests: that of an adapter, or of the model itself."""
    version: int
    """Number of optimizer steps of the weights."""
    label: str | None = None
    """Label that every reply must have if the weights of the model itself were replaced."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply that can be trained on."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


class UnusableReply(Exception):
    """A reply that must not enter a trajectory."""


class WrongWeights(UnusableReply):
    """The reply was sampled from other weights than requested."""


def request(
    served: Served, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int, ends: Set[int]
) -> dict[str, Any]:
    """The body of one request.

    All settings that change the distribution are set, because a server has its own defaults: ``top_k: 5`` alone changes
    log-probabilities by 0.2. The end-of-turn ids are exactly those of the policy's template.

    Args:
        served: Weights to sample from.
        prompt: Ids of the prompt.
        max_tokens: Largest number of ids of the reply.
        temperature: Temperature; 0 is greedy.
        seed: Seed of this reply.
        ends: Ids that end a reply.
    """
    return {
        "model": served.model,
        "token_ids": list(prompt),
        "stream": False,
        "sampling_params": {
            "n": 1,
            "temperature": temperature,
            "seed": seed,
            "max_tokens": max_tokens,
            "min_tokens": 0,
            "top_k": -1,
            "top_p": 1.0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": sorted(ends),
            "ignore_eos": True,
            "logprobs": 0,
            "detokenize": False,
        },
    }


def read_reply(answer: Mapping[str, Any], served: Served, max_tokens: int, ends: Set[int]) -> Reply:
    """The ids and log-probabilities of an answer, after checks that they match the request.

    A reply without an end-of-turn id has the finish reason ``length``, even if the server's context was full before
    ``max_tokens``.

    Args:
        answer: Decoded JSON of the server.
        served: The requested weights.
        max_tokens: As in the request.
        ends: As in the request.

    Raises:
        WrongWeights: The reply comes from other weights, or does not name them.
        UnusableReply: The reply is incomplete or contradicts itself.
    """
    if answer.get("model") != served.model:
        raise WrongWeights(f"drawn by the model {_shown(answer.get('model'))}, expected {served.model!r}")
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    if not isinstance(choice, dict):
        raise UnusableReply("expected exactly one choice")
    ids = choice.get("token_ids")
    if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
        raise UnusableReply("expected token_ids: a list of token ids")
    if not 1 <= len(ids) <= max_tokens:
        raise UnusableReply(f"{len(ids)} ids, expected 1 to {max_tokens}")
    if served.label is not None:
        _check_label(choice.get("weight_versions"), served.label, len(ids))
    if not ends.isdisjoint(ids[:-1]):
        raise UnusableReply("ids after the end of the turn")
    if ids[-1] in ends:
        reason = FinishReason.STOP
    elif choice.get("finish_reason") == "length":
        reason = FinishReason.LENGTH
    else:
        raise UnusableReply(f"ended by {_shown(choice.get('finish_reason'))} without an end-of-turn id")
    return Reply(tuple(ids), _logprobs(choice.get("logprobs"), ids), reason)


def _check_label(spans: Any, label: str, count: int) -> None:
    """Check that every id was sampled from the weights with this label."""
    covered = 0
    for span in spans if isinstance(spans, list) else ():
        version, start, end = (span.get(key) if isinstance(span, dict) else None for key in ("version", "start", "end"))
        if version != label:
            raise WrongWeights(f"drawn by the weights {_shown(version)}, expected {label!r}")
        if start != covered or type(end) is not int:
            break
        covered = end
    if covered != count:
        raise WrongWeights(f"{covered} of {count} ids name their weights, expected {label!r} for all")


def _logprobs(given: Any, ids: Sequence[int]) -> tuple[float, ...]:
    content = given.get("content") if isinstance(given, dict) else None
    if not isinstance(content, list) or len(content) != len(ids):
        raise UnusableReply("expected one log-probability per id")
    found = []
    for token, one in zip(ids, content, strict=True):
        value: Any = one.get("logprob") if isinstance(one, dict) and one.get("token_id") == token else None
        if type(value) not in (int, float) or not math.isfinite(value) or value > 1e-3:
            raise UnusableReply("expected the log-probability of each id")
        found.append(float(value))
    return tuple(found)


def _shown(value: Any) -> str:
    return repr(value)[:80]
