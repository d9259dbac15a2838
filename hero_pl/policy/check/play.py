"""Test conversations that are sampled from a network, and reference logits for them.

The reference is the definition of the policy: the probabilities of a token come from one forward pass over the ids
before it, in evaluation mode and without a cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from hero_pl.policy.base import Policy
from hero_pl.policy.check.small import FIRST_ID, SWITCH, VOCABULARY
from hero_pl.policy.network import Network
from hero_pl.policy.sampler import CachedSampler
from hero_pl.policy.sampling import Sampling
from hero_pl.types import SampledAction, ScoreRow

ACTION = 5
"""Largest number of tokens of an action."""
ENDS = frozenset(range(FIRST_ID, VOCABULARY, 8))
"""Ids that end an action; they are frequent, so actions have different lengths."""
LENGTHS: Mapping[int, Mapping[int, int]] = {
    0: {1: 6, 2: 26, 3: SWITCH},
    1: {1: SWITCH + 12, 3: SWITCH + 30},
    2: {2: 20, 3: SWITCH - 1},
}
"""Length of the prompts by row and turn. One row skips a turn, one joins later, two exceed :data:`SWITCH`."""


class Small(Policy):
    """A network that can be sampled and scored, without a tokenizer; in evaluation mode."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.template = cast(Any, SimpleNamespace(end_ids=ENDS, hint_position="before_action"))
        self.eval()

    def load(self) -> None:
        """Does nothing: there is nothing to load."""

    def score(self, rows: Sequence[ScoreRow], weights: str = "live") -> Tensor:
        """See :meth:`Policy.score`."""
        network = self.need_network("scoring")
        return network.read_rows(network.logits_at, rows, weights)


@dataclass(frozen=True)
class Played:
    """One decision."""

    row: int
    prompt: tuple[int, ...]
    action: SampledAction

    @cached_property
    def scored(self) -> ScoreRow:
        """The decision as a row to score."""
        ids = (*self.prompt, *self.action.ids)
        return ScoreRow(ids, ((len(self.prompt), len(ids)),), self.row)


def play(policy: Policy, weights: str = "live") -> list[Played]:
    """Play the conversations of :data:`LENGTHS` as one batch; seeds and observations are always the same."""
    source = torch.Generator().manual_seed(1)
    conversations: dict[int, tuple[int, ...]] = dict.fromkeys(LENGTHS, ())
    played: list[Played] = []
    with policy.sampling():
        session = CachedSampler().open(policy, Sampling(1.0, ACTION), weights=weights)
        for turn in (1, 2, 3):
            asked = [row for row, lengths in LENGTHS.items() if turn in lengths]
            session.open([100 + row for row in asked if turn == min(LENGTHS[row])])
            for row in asked:
                missing = LENGTHS[row][turn] - len(conversations[row])
                said = torch.randint(FIRST_ID, VOCABULARY, (missing,), generator=source).tolist()
                conversations[row] += tuple(said)
            prompts = [conversations[row] for row in asked]
            for row, prompt, action in zip(asked, prompts, session.act(asked, prompts), strict=True):
                played.append(Played(row, prompt, action))
                conversations[row] += action.ids
    return played


def merged(played: Sequence[Played]) -> list[ScoreRow]:
    """The decisions of each conversation as one row."""
    rows = []
    for row in LENGTHS:
        turns = [turn.scored for turn in played if turn.row == row]
        rows.append(ScoreRow(turns[-1].ids, tuple(turn.spans[0] for turn in turns), row))
    return rows


class Reference:
    """Logits of the plain forward pass after each context; each is computed once."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._known: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def logits(self, rows: Sequence[ScoreRow]) -> Tensor:
        """``(sum of row.scored, vocab)``, like :meth:`Policy.score`."""
        return torch.stack([self._after(row.ids[: place + 1]) for row in rows for place in row.read])

    def logprobs(self, played: Sequence[Played]) -> Tensor:
        """Log-probabilities of all actions, in nats."""
        logits = self.logits([turn.scored for turn in played])
        ids = torch.tensor([i for turn in played for i in turn.action.ids])
        return logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]

    @property
    def scale(self) -> float:
        """Largest absolute logit so far."""
        return max((float(logits.abs().max()) for logits in self._known.values()), default=1.0)

    def _after(self, context: tuple[int, ...]) -> Tensor:
        if context not in self._known:
            out = self.model(input_ids=torch.tensor([context]), use_cache=False)
            self._known[context] = out.logits[0, -1].float()
        return self._known[context]
