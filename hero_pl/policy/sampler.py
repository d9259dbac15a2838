"""In-process sampling for many conversations at once, with the key-value cache kept between turns.

The sampler knows only ids. All conversations share one slot counter: every feed (the last sampled token and what the
environment answered) is padded on the left to the widest row, holes are masked, and positions count real tokens only.
Rows whose conversation is over leave the batch, and holes leave the cache when they are many. Randomness belongs to the
row, not to the batch: an action depends on its seed and its prompt, however many other conversations run beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hero_pl.errors import ConfigError
from hero_pl.policy.base import Policy, SampledAction, Sampler, Sampling, Session
from hero_pl.types import FinishReason

if TYPE_CHECKING:
    from torch import Tensor

    from hero_pl.policy.huggingface import HuggingFacePolicy


HOLES = 0.4
"""Share of masked slots at which the cache is packed: below it, moving keys and values costs more than they do."""


class CachedSampler(Sampler):
    """Plays all conversations in lock step and feeds only what is new (Hugging Face policies)."""

    def open(self, policy: Policy, sampling: Sampling, seeds: Sequence[int], weights: str = "live") -> CachedSession:
        """See :meth:`Sampler.open`.

        Raises:
            ConfigError: Another kind of policy.
        """
        from hero_pl.policy.huggingface import HuggingFacePolicy

        if not isinstance(policy, HuggingFacePolicy):
            raise ConfigError(
                f"CachedSampler samples from a HuggingFacePolicy, not from a {type(policy).__name__}. A ScriptedPolicy "
                "takes ScriptedSampler; leave the sampler of any policy out to get its own."
            )
        return CachedSession(policy, sampling, seeds, weights)


class CachedSession(Session):
    """Conversations whose keys and values stay in memory; see the module docstring for the layout."""

    def __init__(self, policy: HuggingFacePolicy, sampling: Sampling, seeds: Sequence[int], weights: str) -> None:
        from transformers import DynamicCache

        self.policy, self.sampling, self.weights = policy, sampling, weights
        self.streams = [np.random.Generator(np.random.Philox(key=seed % 2**64)) for seed in seeds]
        self.batch = list(range(len(seeds)))
        self.fed: list[list[int]] = [[] for _ in seeds]
        self.cache: Any = DynamicCache()
        self.mask = torch.zeros(len(seeds), 0, dtype=torch.long, device=policy.device)
        self.fed_tokens = 0
        """Tokens that went through the model so far, padding excluded."""
        self.packed = 0
        """How often the cache was packed."""

    def act(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> list[SampledAction]:
        """See :meth:`Session.act`."""
        self._keep(rows)
        self._pack()
        by_row = dict(zip(rows, prompts, strict=True))
        feeds = [self._new_ids(row, by_row[row]) for row in self.batch]
        logits = self._feed(feeds)
        ends = self.policy.template.end_ids
        size = len(self.batch)
        ids: list[list[int]] = [[] for _ in range(size)]
        logprobs: list[list[float]] = [[] for _ in range(size)]
        open_rows = [True] * size
        make = self.sampling.constraint
        constraints = [make(row) for row in self.batch] if make else []
        for count in range(1, self.sampling.max_action_tokens + 1):
            for i, constraint in enumerate(constraints):
                if open_rows[i]:
                    logits[i] = constraint.allow(logits[i])
            tokens, chosen = self._draw(logits, open_rows)
            for i in range(size):
                if open_rows[i]:
                    if constraints:
                        constraints[i].accept(tokens[i])
                    ids[i].append(tokens[i])
                    logprobs[i].append(chosen[i])
                    open_rows[i] = tokens[i] not in ends
            if not any(open_rows) or count == self.sampling.max_action_tokens:
                break
            logits = self._feed([[tokens[i]] if open_rows[i] else [] for i in range(size)])
        actions = {
            row: SampledAction(
                tuple(ids[i]), tuple(logprobs[i]), FinishReason.LENGTH if open_rows[i] else FinishReason.STOP
            )
            for i, row in enumerate(self.batch)
        }
        return [actions[row] for row in rows]

    def _keep(self, rows: Sequence[int]) -> None:
        """Drop the conversations that are over from the batch."""
        wanted = set(rows)
        if len(wanted) == len(self.batch):
            return
        keep = [i for i, row in enumerate(self.batch) if row in wanted]
        index = torch.tensor(keep, device=self.mask.device)
        if self.mask.shape[1]:
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

    def _new_ids(self, row: int, prompt: tuple[int, ...]) -> list[int]:
        """What of ``prompt`` was not fed yet; a rewritten history masks the row and starts it again."""
        i = self.batch.index(row)
        done = len(self.fed[i])
        if list(prompt[:done]) != self.fed[i] or done >= len(prompt):
            self.mask[i] = 0
            self.fed[i] = []
            done = 0
        return list(prompt[done:])

    def _feed(self, feeds: Sequence[Sequence[int]]) -> Tensor:
        """Run the new ids of every row; returns ``(rows, vocab)`` logits after the last one."""
        width = max(map(len, feeds))
        device = self.mask.device
        ids = torch.zeros(len(feeds), width, dtype=torch.long)
        mask = torch.zeros(len(feeds), width, dtype=torch.long)
        for i, feed in enumerate(feeds):
            if feed:
                ids[i, width - len(feed) :] = torch.tensor(feed)
                mask[i, width - len(feed) :] = 1
                self.fed[i] += feed
        self.fed_tokens += int(mask.sum())
        ids, mask = ids.to(device), mask.to(device)
        positions = (self.mask.sum(1, keepdim=True) + mask.cumsum(1) - 1).clamp_min(0)
        self.mask = torch.cat([self.mask, mask], 1)
        out = self.policy.run(
            self.weights,
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()  # type: ignore[no-any-return]

    def _draw(self, logits: Tensor, open_rows: Sequence[bool]) -> tuple[list[int], list[float]]:
        """One token per row and its log-probability; rows that are closed get an arbitrary one."""
        temperature = self.sampling.temperature
        log_q = (logits / temperature if temperature else logits).log_softmax(-1)
        if temperature:
            uniform = [self.streams[row].random() if open_rows[i] else 0.5 for i, row in enumerate(self.batch)]
            cumulative = log_q.double().exp().cumsum(-1)
            target = torch.tensor(uniform, dtype=torch.double, device=logits.device)[:, None] * cumulative[:, -1:]
            tokens = torch.searchsorted(cumulative, target, right=True).clamp_max(logits.shape[-1] - 1)
        else:
            tokens = log_q.argmax(-1, keepdim=True)
        chosen = log_q.gather(-1, tokens).squeeze(-1).tolist()
        assert all(math.isfinite(x) for x in chosen), "a token of probability 0 was drawn"
        return tokens.squeeze(-1).tolist(), chosen
