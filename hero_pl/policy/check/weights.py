"""Checks a policy with its own weights, sampler and chat template: a short conversation is sampled and scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hero_pl.chat.history import History
from hero_pl.chat.probes import Line
from hero_pl.policy.base import Policy
from hero_pl.policy.branches import BranchScorer
from hero_pl.policy.check.play import Played
from hero_pl.policy.check.properties import allowed, compared
from hero_pl.policy.sampling import Sampling
from hero_pl.types import ScoreRow

OPENINGS = ("Hello.", "Hello, I am looking for a red mug that holds about half a liter. What do you have?")
ANSWERS = ("Tell me more about the first one, please.", "Yes.")
TOKENS = 6
"""Largest number of tokens of an action."""


def weights_lines(policy: Policy) -> Iterator[Line]:
    """Compare sampler, scorer and forward pass of a loaded policy.

    Args:
        policy: Policy on its device; it is in evaluation mode while it is sampled.
    """
    played = _play(policy)
    rows = [turn.scored for turn in played]
    ids = torch.tensor([i for turn in played for i in turn.action.ids])
    with policy.sampling():
        want = torch.cat([_plain(policy, row) for row in rows])
    drawn = torch.tensor([x for turn in played for x in turn.action.logprobs])
    scale = float(want.abs().max())
    tolerance = allowed(next(policy.parameters()).dtype, scale)

    def line(name: str, get: Callable[[], Tensor], expected: Tensor, cure: str) -> Line:
        return compared(f"weights: {name}", lambda: (get().float().cpu(), expected), tolerance, cure)

    logprobs = want.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    yield line("sampler", lambda: drawn, logprobs, "Sampled log-probabilities would be wrong: take dtype: float32.")
    cure = "Student and teacher would be scored wrongly: take dtype: float32 or attention: eager."
    yield line("score", lambda: _scored(policy, rows), want, cure)
    was = policy.training
    policy.train()
    try:
        yield line("training mode", lambda: _scored(policy, rows), want, "The model is random in training mode.")
    finally:
        policy.train(was)
    scorer = BranchScorer("prefix_cache")
    if scorer.can_share(policy, "live"):
        with policy.sampling():
            cure = "Hints would be scored wrongly on the shared context: set teacher_scoring: separate."
            yield line("prefix_cache", lambda: scorer.score(policy, rows, "live"), want, cure)


@torch.no_grad()
def _scored(policy: Policy, rows: list[ScoreRow]) -> Tensor:
    return policy.score(rows)


def _play(policy: Policy) -> list[Played]:
    """Two turns of two conversations in one batch."""
    histories = [History(policy.template, "You keep a shop.", opening) for opening in OPENINGS]
    played: list[Played] = []
    with policy.sampling():
        policy.sampler.sync(policy)
        session = policy.sampler.open(policy, Sampling(1.0, TOKENS), range(len(OPENINGS)))
        for last in (False, True):
            prompts = [history.prompt_ids for history in histories]
            actions = session.act(range(len(prompts)), prompts)
            for row, (prompt, action) in enumerate(zip(prompts, actions, strict=True)):
                played.append(Played(row, prompt, action))
                if not last:
                    histories[row].append(action.ids, ANSWERS[row])
    return played


@torch.no_grad()
def _plain(policy: Policy, row: ScoreRow) -> Tensor:
    """Logits of one forward pass over a single row."""
    network: Any = policy.need_network("the check")
    ids = torch.tensor([row.ids], device=network.device)
    return network.model(input_ids=ids, use_cache=False).logits[0, row.read].float().cpu()  # type: ignore[no-any-return]
