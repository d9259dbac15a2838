"""In-process sampling for many conversations at once, with the key-value cache kept between turns.

The sampler knows only ids. Rows that can share a pass are one batch (:mod:`hero_pl.policy.cached_rows`) and are fed
only what is new. Where the rotary positions of a model depend on the length of the context, rows on either side of
the switch are a batch each, and a row that crosses it is run again. Models whose layers carry a state that padding
would spoil have every row to itself, run from its start at every turn; models without a cache that can be used run
all of it for every token. Randomness belongs to the row, not to the batch: an action depends on its seed and its
prompt, however many other conversations run beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from hero_pl.errors import ConfigError
from hero_pl.policy.cached_rows import CachedRows, UncachedRows
from hero_pl.policy.positions import stretch
from hero_pl.policy.sampling import SampledAction, SampledPolicy, Sampler, Sampling, Session
from hero_pl.types import FinishReason

if TYPE_CHECKING:
    from torch import Tensor

    from hero_pl.policy.network import Network


class CachedSampler(Sampler):
    """Plays all conversations in lock step and feeds only what is new (policies with a network)."""

    def open(
        self, policy: SampledPolicy, sampling: Sampling, seeds: Sequence[int] = (), weights: str = "live"
    ) -> CachedSession:
        """See :meth:`Sampler.open`.

        Raises:
            ConfigError: Another kind of policy.
        """
        if policy.network is None:
            raise ConfigError(
                "CachedSampler samples from the network of a loaded HuggingFacePolicy, not from a "
                f"{type(policy).__name__}. A ScriptedPolicy takes ScriptedSampler; leave the sampler of any policy out "
                "to get its own."
            )
        return CachedSession(policy, policy.network, sampling, seeds, weights)


class CachedSession(Session):
    """Conversations whose keys and values stay in memory; see the module docstring."""

    def __init__(
        self, policy: SampledPolicy, network: Network, sampling: Sampling, seeds: Sequence[int], weights: str
    ) -> None:
        self.policy, self.network, self.sampling, self.weights = policy, network, sampling, weights
        self.streams: dict[int, np.random.Generator] = {}
        """Randomness of each open row."""
        self.opened = 0
        self.asked: dict[int, tuple[int, ...]] = {}
        """Prompts of the rows that wait for an action."""
        self.batches: dict[int, CachedRows | UncachedRows] = {}
        """Rows that share passes, by the key of :meth:`_key`."""
        self.place: dict[int, int] = {}
        """Key of the batch that holds a row, for rows whose keys and values are kept."""
        self._left = 0
        self.open(seeds)

    @property
    def fed_tokens(self) -> int:
        """Tokens that went through the model so far, padding excluded."""
        return self._left + sum(batch.fed_tokens for batch in self.batches.values())

    # -- the seam ----------------------------------------------------------------------------------------------

    def open(self, seeds: Sequence[int]) -> list[int]:
        """See :meth:`Session.open`; costs nothing before the first prompt."""
        rows = list(range(self.opened, self.opened + len(seeds)))
        self.opened += len(rows)
        for row, seed in zip(rows, seeds, strict=True):
            self.streams[row] = np.random.Generator(np.random.Philox(key=seed % 2**64))
        return rows

    def submit(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        """See :meth:`Session.submit`."""
        self.asked.update(zip(rows, prompts, strict=True))

    def finished(self) -> list[tuple[int, SampledAction]]:
        """See :meth:`Session.finished`; draws for all rows that were asked, as one batch."""
        if not self.asked:
            return []
        ends, limit = self.policy.template.end_ids, self.sampling.max_action_tokens
        ids: dict[int, list[int]] = {row: [] for row in self.asked}
        logprobs: dict[int, list[float]] = {row: [] for row in self.asked}
        make = self.sampling.constraint
        constraints = {row: make(row) for row in self.asked} if make else {}
        rows, logits = self._read_prompts()
        while True:
            if constraints:
                logits = torch.stack([constraints[row].allow(one) for row, one in zip(rows, logits, strict=True)])
            for row, token, logprob in zip(rows, *self._draw(rows, logits), strict=True):
                ids[row].append(token)
                logprobs[row].append(logprob)
                if constraints:
                    constraints[row].accept(token)
            going = [row for row in rows if ids[row][-1] not in ends]
            if not going or len(ids[going[0]]) == limit:
                break
            rows, logits = self._feed({row: ids[row] for row in going})
        self.asked = {}
        version = self.policy.version if self.weights == "live" else 0
        reasons = {row: FinishReason.LENGTH if row in going else FinishReason.STOP for row in ids}
        return [(row, SampledAction(tuple(ids[row]), tuple(logprobs[row]), reasons[row], version)) for row in ids]

    def close(self, rows: Sequence[int]) -> None:
        """See :meth:`Session.close`."""
        for row in rows:
            del self.streams[row]
            self.asked.pop(row, None)
            self._drop(row)

    # -- the batches -------------------------------------------------------------------------------------------

    def _key(self, row: int, length: int) -> int:
        """Rows of equal keys share passes: those whose contexts have the same frequencies, or the row alone."""
        return row if self.network.caching == "row" else -1 - stretch(length, self.network.rope_switches)

    def _read_prompts(self) -> tuple[list[int], Tensor]:
        """Feed what is new of every prompt that was asked; rows and logits as in :meth:`_run`."""
        new: dict[int, Sequence[int]] = {}
        for row, prompt in self.asked.items():
            fed = self.batches[self.place[row]].fed[row] if row in self.place else []
            grows = 0 < len(fed) < len(prompt) and prompt[: len(fed)] == tuple(fed)
            if grows and self.network.caching != "row" and self.place[row] == self._key(row, len(prompt)):
                new[row] = prompt[len(fed) :]
            else:  # a rewritten history, or one that has nothing new to read, is run again from its start
                self._drop(row)
        return self._run(new, {row: prompt for row, prompt in self.asked.items() if row not in new})

    def _feed(self, drawn: Mapping[int, Sequence[int]]) -> tuple[list[int], Tensor]:
        """Feed the last of the ids that were drawn for some rows; rows and logits as in :meth:`_run`."""
        new: dict[int, Sequence[int]] = {}
        again: dict[int, Sequence[int]] = {}
        for row, ids in drawn.items():
            whole = len(self.asked[row]) + len(ids)
            if self.place[row] == self._key(row, whole):
                new[row] = ids[-1:]
            else:
                self._drop(row)
                again[row] = (*self.asked[row], *ids)
        return self._run(new, again)

    def _run(self, new: Mapping[int, Sequence[int]], joining: Mapping[int, Sequence[int]]) -> tuple[list[int], Tensor]:
        """Run new ids of rows that are in the cache, and whole contexts of rows that are not.

        Returns:
            All these rows, and their logits ``(rows, vocab)`` after the last id.
        """
        rows: list[int] = []
        parts: list[Tensor] = []
        for key in sorted({self.place[row] for row in new}):
            batch = self.batches[key]
            rows += [row for row in batch.fed if row in new]
            parts.append(batch.feed({row: ids for row, ids in new.items() if self.place[row] == key}))
        keys = {row: self._key(row, len(ids)) for row, ids in joining.items()}
        for key in sorted(set(keys.values())):
            if key not in self.batches:
                kind = UncachedRows if self.network.caching == "none" else CachedRows
                self.batches[key] = kind(self.network, self.weights)
            some = {row: ids for row, ids in joining.items() if keys[row] == key}
            rows += some
            parts.append(self.batches[key].join(some))
        self.place |= keys
        return rows, torch.cat(parts)

    def _drop(self, row: int) -> None:
        """Forget the keys and values of a row."""
        key = self.place.pop(row, None)
        if key is not None:
            self.batches[key].drop({row})
            if not self.batches[key].fed:
                self._left += self.batches.pop(key).fed_tokens

    def _draw(self, rows: Sequence[int], logits: Tensor) -> tuple[list[int], list[float]]:
        """One token per row, and its log-probability."""
        log_q = (logits / self.sampling.divisor).log_softmax(-1)
        if self.sampling.temperature:
            uniform = [self.streams[row].random() for row in rows]
            cumulative = log_q.double().exp().cumsum(-1)
            target = torch.tensor(uniform, dtype=torch.double, device=logits.device)[:, None] * cumulative[:, -1:]
            tokens = torch.searchsorted(cumulative, target, right=True).clamp_max(logits.shape[-1] - 1)
        else:
            tokens = log_q.argmax(-1, keepdim=True)
        chosen = log_q.gather(-1, tokens).squeeze(-1).tolist()
        assert all(math.isfinite(x) for x in chosen), "a token of probability 0 was drawn"
        return tokens.squeeze(-1).tolist(), chosen
