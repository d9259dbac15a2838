"""Checks with one short reply to a long prompt that a server samples from the weights of the trainer.

The reply must be generated, because generation uses the prefix cache of the server. A cache from former weights changes
log-probabilities of the reply by 0.25. Those of the prompt do not show this, because the server computes them again.
"""

from __future__ import annotations

import math
from collections.abc import Set
from typing import TYPE_CHECKING

import torch

from hero_pl.errors import PolicyError
from hero_pl.policy.server.dialect import Reply, Served, UnusableReply, read_reply, request
from hero_pl.types import Message, ScoreRow

if TYPE_CHECKING:
    from hero_pl.chat.dialect import Dialect
    from hero_pl.policy.base import Policy
    from hero_pl.policy.server.client import Server

PROMPT_TOKENS = 400
"""Smallest length of the prompt, if the context is long enough: it fills many blocks of a prefix cache."""
REPLY_TOKENS = 8
TEMPERATURE = 0.7
"""Not 1, so that a server that reports log-probabilities from before the temperature is noticed."""
TOLERANCE = {torch.float32: 1e-3}
COARSE = 0.1
"""Largest accepted difference for weights that are less precise than float32, in nats."""
TEXT = "Numbers that the trainer and the server must both know: "


def canary_prompt(dialect: Dialect) -> tuple[int, ...]:
    """The prompt of all checks of a run. It is always the same, so the server has cached it with the former weights.

    Args:
        dialect: Dialect of the policy.
    """
    words, prompt = TEXT, dialect.template.conversation([Message("user", TEXT)])
    while len(prompt) < PROMPT_TOKENS:
        words += " ".join(str(len(words) + i) for i in range(8)) + ", "
        prompt = dialect.template.conversation([Message("user", words)])
    return prompt[: dialect.max_length - REPLY_TOKENS]


def ask(server: Server, served: Served, prompt: tuple[int, ...], ends: Set[int]) -> Reply:
    """One reply of a server to the prompt of the check.

    Raises:
        ServerError: There is no reply.
        PolicyError: The reply is unusable.
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
        server: Server with the weights.
        served: Name of the weights on the server.
        prompt: Result of :func:`canary_prompt`.
        policy: Policy with the weights.
        weights: ``live`` or ``initial``.
        tolerance: Largest accepted difference in nats; default: by the precision of the weights.

    Returns:
        The largest difference.

    Raises:
        ServerError: The server gives no reply.
        PolicyError: The server does not have the weights of the trainer.
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
        "weights: restart it with the command from hero_pl serve-command. If only its precision is lower, raise "
        "tolerance."
    )


def _largest(logits: torch.Tensor, reply: Reply, drawn: torch.Tensor, temperature: float) -> float:
    log_q = (logits / temperature).log_softmax(-1)
    gaps = (log_q.gather(-1, torch.tensor(reply.ids)[:, None])[:, 0] - drawn).abs()
    return float(gaps.max()) if bool(gaps.isfinite().all()) else math.inf
