"""In-process sampling for many conversations at once, with the key-value cache kept between turns.

The sampler knows only ids. The rows of the batch share one slot counter: every feed (the last sampled token and what
the environment answered) is padded on the left to the widest row, holes are masked, and positions count real tokens
only. A row that joins late is run by itself, so that no other row pays for its prompt, and is then put beside the
others. Rows that are closed leave the batch, and holes leave the cache when they are many. Randomness belongs to the
row, not to the batch: an action depends on its seed and its prompt, however many other conversations run beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import pad

from hero_pl.errors import ConfigError
from hero_pl.policy.sampling import SampledAction, SampledPolicy, Sampler, Sampling, Session
from hero_pl.types import FinishReason

if TYPE_CHECKING:
    from torch import Tensor

    from hero_pl.policy.network import Network


HOLES = 0.4
"""Share of masked slots at which the cache is packed: below it, moving keys and values costs more than they do."""


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
    """Conversations whose keys and values stay in memory; see the module docstring for the layout."""

    def __init__(
        self, policy: SampledPolicy, network: Network, sampling: Sampling, seeds: Sequence[int], weights: str
    ) -> None:
        self.policy, self.network, self.sampling, self.weights = policy, network, sampling, weights
        self.streams: dict[int, np.random.Generator] = {}
        """Randomness of each open row."""
        self.opened = 0
        self.asked: dict[int, tuple[int, ...]] = {}
        """Prompts of the rows that wait for an action."""
        self.fed_tokens = 0
        """Tokens that went through the model so far, padding excluded."""
        self.packed = 0
        """How often the cache was packed."""
        self._forget()
        self.open(seeds)

    def _forget(self) -> None:
        """An empty batch."""
        self.batch: list[int] = []
        """Rows in the cache, in its order."""
        self.fed: list[list[int]] = []
        """Ids in the cache, by place in the batch."""
        self.cache = _new_cache()
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=self.network.device)
        """``(rows, slots)``: which slots of the cache hold a token."""

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
        self._pack()
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
            rows, logits = self._feed({row: ids[row][-1:] for row in going})
        self.asked = {}
        version = self.policy.version if self.weights == "live" else 0
        reasons = {row: FinishReason.LENGTH if row in going else FinishReason.STOP for row in ids}
        return [(row, SampledAction(tuple(ids[row]), tuple(logprobs[row]), reasons[row], version)) for row in ids]

    def close(self, rows: Sequence[int]) -> None:
        """See :meth:`Session.close`."""
        for row in rows:
            del self.streams[row]
            self.asked.pop(row, None)
        self._drop(set(rows))

    # -- the batch ---------------------------------------------------------------------------------------------

    def _read_prompts(self) -> tuple[list[int], Tensor]:
        """Feed what is new of every prompt that was asked; rows and logits as in :meth:`_feed`."""
        new: dict[int, tuple[int, ...]] = {}
        for row, fed in zip(self.batch, self.fed, strict=True):
            prompt = self.asked.get(row, ())
            if len(prompt) > len(fed) and prompt[: len(fed)] == tuple(fed):
                new[row] = prompt[len(fed) :]
        # a rewritten history, or one that has nothing new to read, is run again from its start
        self._drop({row for row in self.asked if row in self.batch and row not in new})
        parts = [self._feed(new)] if new else []
        joining = [row for row in self.asked if row not in self.batch]
        if joining:
            parts.append((joining, self._join(joining)))
        return [row for rows, _ in parts for row in rows], torch.cat([logits for _, logits in parts])

    def _feed(self, new: Mapping[int, Sequence[int]]) -> tuple[list[int], Tensor]:
        """Run new ids of some rows of the batch.

        Returns:
            These rows in the order of the batch, and their logits ``(rows, vocab)`` after the last new id.
        """
        feeds = [new.get(row, ()) for row in self.batch]
        logits, self.mask = self._run(self.cache, self.mask, feeds)
        for known, feed in zip(self.fed, feeds, strict=True):
            known += feed
        places = [i for i, feed in enumerate(feeds) if feed]
        return [self.batch[i] for i in places], logits[places]

    def _join(self, rows: Sequence[int]) -> Tensor:
        """Run the whole prompts of rows that are not in the cache, then put them there; returns their logits."""
        cache, none = _new_cache(), torch.zeros(len(rows), 0, dtype=torch.long, device=self.network.device)
        logits, mask = self._run(cache, none, [self.asked[row] for row in rows])
        if self.batch:
            missing = mask.shape[1] - self.mask.shape[1]
            old, new = max(missing, 0), max(-missing, 0)
            for layer, other in zip(self.cache.layers, cache.layers, strict=True):
                for name in ("keys", "values"):  # (rows, heads, slots, head size)
                    there, here = pad(getattr(layer, name), (0, 0, old, 0)), pad(getattr(other, name), (0, 0, new, 0))
                    setattr(layer, name, torch.cat([there, here]))
            mask = torch.cat([pad(self.mask, (old, 0)), pad(mask, (new, 0))])
        else:
            self.cache = cache
        self.mask = mask
        self.batch += rows
        self.fed += [list(self.asked[row]) for row in rows]
        return logits

    def _run(self, cache: Any, mask: Tensor, feeds: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """One pass over new ids, padded on the left.

        Returns:
            ``(rows, vocab)`` logits after the last id, and the mask ``(rows, slots)`` with the new slots.
        """
        width = max(map(len, feeds))
        ids = torch.zeros(len(feeds), width, dtype=torch.long)
        new = torch.zeros(len(feeds), width, dtype=torch.long)
        for i, feed in enumerate(feeds):
            if feed:
                ids[i, width - len(feed) :] = torch.tensor(feed)
                new[i, width - len(feed) :] = 1
        self.fed_tokens += int(new.sum())
        ids, new = ids.to(mask.device), new.to(mask.device)
        positions = (mask.sum(1, keepdim=True) + new.cumsum(1) - 1).clamp_min(0)
        mask = torch.cat([mask, new], 1)
        out = self.network.run(
            self.weights,
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float(), mask

    def _drop(self, rows: set[int]) -> None:
        """Take rows out of the batch."""
        keep = [i for i, row in enumerate(self.batch) if row not in rows]
        if len(keep) == len(self.batch):
            return
        if not keep:
            self._forget()
            return
        index = torch.tensor(keep, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]
        self.batch = [self.batch[i] for i in keep]
        self.fed = [self.fed[i] for i in keep]

    def _pack(self) -> None:
        """Take the holes out of the cache once they are many; what is left keeps its order and its positions."""
        slots = self.mask.shape[1]
        width = int(self.mask.sum(1).max()) if slots else 0
        if width in (0, slots) or float(self.mask.float().mean()) >= 1.0 - HOLES:
            return
        order = self.mask.argsort(dim=1, stable=True)[:, -width:]  # holes first
        self.mask = self.mask.gather(1, order)
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)  # (rows, heads, slots, head size)
                index = order[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
                setattr(layer, name, states.gather(2, index))
        self.packed += 1

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


def _new_cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()
