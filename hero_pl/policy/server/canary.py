"""Does a server draw from the weights that the trainer has? One short reply to a long prompt tells.

The reply is generated, since that is what uses the server's prefix cache: a cache that outlived its weights moves
log-probabilities by 0.25, and those of the prompt, which are computed afresh, show nothing.
"""

from __future__ import annotations

import math
from collections.abc import Set
from typing import TYPE_CHECKING

import torch

from hero_pl.errors import PolicyError
from hero_pl.policy.base import ScoreRow
from hero_pl.policy.server.dialect import Reply, Served, UnusableReply, read_reply, request
from hero_pl.types import Message

if TYPE_CHECKING:
    from hero_pl.chat.dialect import Dialect
    from hero_pl.policy.base import Policy
    from hero_pl.policy.server.client import Server

PROMPT_TOKENS = 400
"""At least, if the context has room: many whole blocks of a prefix cache."""
REPLY_TOKENS = 8
TEMPERATURE = 0.7
"""Not 1, so that a server that reports log-probabilities from before the temperature is noticed."""
TOLERANCE = {torch.float32: 1e-3}
COARSE = 0.1
"""Largest accepted difference for weights that are less precise than float32, in nats."""
TEXT = "Numbers that the trainer and the server must both know: "


def canary_prompt(dialect: Dialect) -> tuple[int, ...]:
    """The same ids in every check of a run, so that a server has cached them under the former weights.

    Args:
        dialect: Of the policy.
    """
    words, prompt = TEXT, dialect.template.conversation([Message("user", TEXT)])
    while len(prompt) < PROMPT_TOKENS:
        words += " ".join(str(len(words) + i) for i in range(8)) + ", "
        prompt = dialect.template.conversation([Message("user", words)])
    return prompt[: dialect.max_length - REPLY_TOKENS]


def ask(server: Server, served: Served, prompt: tuple[int, ...], ends: Set[int]) -> Reply:
    """One reply of a server to the prompt of the check.

    Raises:
        ServerError: There is none.
        PolicyError: It is unusable.
    """
    answer = server.generate(request(served, prompt, REPLY_TOKENS, TEMPERATURE, len(prompt), ends))
    try:
        return read_reply(answer, served, REPLY_TOKENS, ends)
    except UnusableReply as error:
        raise PolicyError(f"{server.url} gave an unusable reply: {error}.") from None


def check(
    server: Server, served: Served, prompt: tuple[int, ...], policy: Policy, weights: str, tolerance: float | None
) -> float:
    """Compare the log-probabilities of a reply with those of the trainer's own weights.

    Args:
        server: That has the weights.
        served: What they are called there.
        prompt: From :func:`canary_prompt`.
        policy: With the weights.
        weights: ``live`` or ``initial``.
        tolerance: Largest accepted difference in nats; default: by the precision of the weights.

    Returns:
        The largest difference.

    Raises:
        ServerError: The server gives no reply.
        PolicyError: Its weights are not those of the trainer.
    """
    reply = ask(server, served, prompt, policy.template.end_ids)
    row = ScoreRow((*prompt, *reply.ids), ((len(prompt), len(prompt) + len(reply.ids)),))
    with policy.sampling():
        logits = policy.score([row], weights).float().cpu()
    drawn = torch.tensor(reply.logprobs)
    gap, raw_gap = (_largest(logits, reply, drawn, temperature) for temperature in (TEMPERATURE, 1.0))
    if tolerance is None:
        tolerance = TOLERANCE.get(next(policy.parameters()).dtype, COARSE)
    if gap <= tolerance:
        return gap
    if raw_gap <= tolerance:
        raise PolicyError(
            f"{server.url} reports log-probabilities from before the temperature. Start it with --logprobs-mode "
            "processed_logprobs, see hero_pl serve-command."
        )
    raise PolicyError(
        f"{server.url} does not draw from the weights of the trainer: log-probabilities of {served.model} differ by "
        f"{gap:.2g} nats (sampler tolerance: {tolerance:.2g}). It serves another model or keeps the cache of former "
        "weights: restart it as hero_pl serve-command says. If it only computes less precisely, raise tolerance."
    )


def _largest(logits: torch.Tensor, reply: Reply, drawn: torch.Tensor, temperature: float) -> float:
    log_q = (logits / temperature).log_softmax(-1)
    gaps = (log_q.gather(-1, torch.tensor(reply.ids)[:, None])[:, 0] - drawn).abs()
    return float(gaps.max()) if bool(gaps.isfinite().all()) else math.inf
