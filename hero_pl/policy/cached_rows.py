"""Conversations that are run as one batch, with a cache of their keys and values.

Layers with a window, with chunks or with relative distances count slots of the cache, not positions. Therefore the
tokens of a row must be in consecutive slots when new ids are run. The rows are padded on the left and new ids on the
right. If a row has padding on its right, its tokens are first moved to the last slots. The prompt of a row that joins
later is run separately, so that the other rows are not padded to its length; the row is then added to the batch. A row
whose action has ended is not run: it is moved behind the rows that continue.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

from hero_pl.policy.cache_input import cache_input
from hero_pl.policy.network import TOKENS_PER_PASS

if TYPE_CHECKING:
    from torch import Tensor

    from hero_pl.policy.kept_rows import KeptRow
    from hero_pl.policy.network import States
    from hero_pl.policy.sampling_weights import SamplingWeights


class CachedRows:
    """A batch of growing rows. A pass runs only the first rows of the batch.

    Args:
        weights: Weights that run the rows.
    """

    def __init__(self, weights: SamplingWeights) -> None:
        self.network, self.weights = weights.network, weights
        self.fed_tokens = 0
        """Tokens that the network has run so far, without padding."""
        self.moved = 0
        """Number of times that tokens were moved to the last slots."""
        self.passed = 0
        """Tokens that the network has run so far, with padding."""
        self._forget()

    def _forget(self) -> None:
        self.fed: dict[int, list[int]] = {}
        """Ids in the cache for each row, in the order of the batch."""
        self.cache = self._new_cache()
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=self.network.device)
        """``(rows, slots)``: 1 where a slot of the cache holds a token."""
        self._behind: set[int] = set()
        """Rows whose last token is not in the last slot."""
        self._unpadded = False
        """Whether every slot of the rows of the last :meth:`feed` holds a token, the new ones included."""

    def _new_cache(self) -> Any:
        if self.network.caching == "row":  # the cache type that each layer needs; it does not support padding
            from transformers import DynamicCache

            return DynamicCache(config=self.network.model.config)
        from hero_pl.policy.growing_cache import growing_cache

        return growing_cache()  # every layer keeps all tokens, so slots are the same in all layers

    def join(self, prompts: Mapping[int, Sequence[int]], kept: Sequence[KeptRow] = ()) -> Tensor:
        """Run the prompts of new rows and add the rows to the batch; ``(rows, vocab)`` logits.

        Args:
            prompts: Whole contexts by row.
            kept: For each of them a conversation that it continues, which is not run again; default: none.

        A pass has at most ``TOKENS_PER_PASS`` new tokens with padding, or one longer prompt.
        """
        rows = list(prompts)
        new = [len(ids) - len(row.ids) for ids, row in zip(prompts.values(), kept, strict=True)] if kept else None
        parts = [
            self._join({row: prompts[row] for row in rows[part]}, kept[part])
            for part in passes(new or [len(ids) for ids in prompts.values()])
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _join(self, prompts: Mapping[int, Sequence[int]], kept: Sequence[KeptRow]) -> Tensor:
        cache, mask = self._new_cache(), torch.zeros(len(prompts), 0, dtype=torch.long, device=self.network.device)
        feeds = [ids[len(row.ids) :] for ids, row in zip(prompts.values(), kept, strict=True)] if kept else None
        if kept:
            mask = _fill(cache, kept)
        logits, mask = self._run(cache, mask, *self._padded(feeds or list(prompts.values())))
        if self.fed:
            missing = mask.shape[1] - self.mask.shape[1]
            for layer, other in zip(self.cache.layers, cache.layers, strict=True):
                layer.beside(other)
            mask = torch.cat([pad(self.mask, (max(missing, 0), 0)), pad(mask, (max(-missing, 0), 0))])
        else:
            self.cache = cache
        self.mask = mask
        lengths = dict(zip(prompts, map(len, feeds or prompts.values()), strict=True))
        self._behind |= {row for row, length in lengths.items() if length < max(lengths.values())}
        self.fed.update({row: list(ids) for row, ids in prompts.items()})
        return logits

    def states_of(self, row: int) -> States:
        """Keys and values of a row, copied."""
        place = list(self.fed).index(row)
        slots = self.mask[place].nonzero().squeeze(-1)
        return tuple(
            (keys[place : place + 1].index_select(2, slots), values[place : place + 1].index_select(2, slots))
            for keys, values in (layer.rooms for layer in self.cache.layers)
        )

    def feed(self, new: Mapping[int, Sequence[int]]) -> Tensor:
        """Run new ids of rows of the batch.

        Returns:
            ``(len(new), vocab)`` logits after the last new id of each, in the order of the batch.
        """
        if not self._behind.isdisjoint(new):
            self._move_up()
        longest = max(map(len, new.values()))
        slots = self.mask.shape[1] + longest
        self._unpadded = all(len(self.fed[row]) + len(ids) == slots for row, ids in new.items())
        self._to_front(new)
        feeds = [new[row] for row in self.fed if row in new]
        logits = self._extend(*self._padded(feeds))
        for row, known in self.fed.items():
            known += new.get(row, ())
            if len(new.get(row, ())) < longest:
                self._behind.add(row)
        return logits

    def step(self, ids: Tensor) -> Tensor:
        """Run one more id ``(rows,)`` of each row of the last :meth:`feed`; logits as there.

        After some steps, :meth:`settle` must be called with the ids.
        """
        count = len(ids)
        return self._extend(ids[:, None], torch.ones_like(ids[:, None]), [0] * count)

    def settle(self, kept: Sequence[Sequence[int]], steps: int) -> None:
        """Record the ids of the last steps and mask the slots of ids after the end of an action.

        Args:
            kept: Ids of each row of the last :meth:`feed` that belong to its action; the first ``steps`` were run.
            steps: Number of calls of :meth:`step`.
        """
        for i, (row, ids) in enumerate(zip(list(self.fed), kept, strict=False)):
            self.fed[row] += ids[:steps]
            self.fed_tokens += len(ids[:steps])
            if len(ids) < steps:
                self.mask[i, self.mask.shape[1] - steps + len(ids) :] = 0
                self._behind.add(row)

    def drop(self, rows: set[int]) -> None:
        """Remove rows from the batch."""
        keep = [row for row in self.fed if row not in rows]
        if len(keep) == len(self.fed):
            return
        if not keep:
            self._forget()
            return
        self._to_front(keep)
        for layer in self.cache.layers:
            layer.keep(len(keep))
        self.mask = self.mask[: len(keep)]
        self.fed = {row: ids for row, ids in self.fed.items() if row not in rows}
        self._behind -= rows
        self._show(len(keep))

    def _padded(self, feeds: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, list[int]]:
        """Ids ``(rows, width)``, padded on the right; their mask, 0 for padding; the index of the last id of each."""
        width = max(map(len, feeds))
        ids = torch.tensor([[*feed, *[0] * (width - len(feed))] for feed in feeds], dtype=torch.long)
        new = torch.tensor([[1] * len(feed) + [0] * (width - len(feed)) for feed in feeds], dtype=torch.long)
        self.fed_tokens += sum(map(len, feeds))
        return ids.to(self.mask.device), new.to(self.mask.device), [len(feed) - 1 for feed in feeds]

    def _extend(self, ids: Tensor, new: Tensor, last: Sequence[int]) -> Tensor:
        """Run new ids of the first rows and add their slots; ``(rows, vocab)`` logits after the last id of each."""
        logits, mask = self._run(self.cache, self.mask[: len(ids)], ids, new, last, one_more=ids.shape[1] == 1)
        waiting = self.mask[len(ids) :]
        self.mask = torch.cat([mask, pad(waiting, (0, ids.shape[1]))]) if len(waiting) else mask
        return logits

    def _run(
        self, cache: Any, mask: Tensor, ids: Tensor, new: Tensor, last: Sequence[int], one_more: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Run new ids in one pass.

        Args:
            cache: Keys and values of these rows.
            mask: Which of their slots hold a token.
            ids: ``(rows, width)``, padded on the right.
            new: As ``mask``, for the new slots.
            last: Index of the last id of each row.
            one_more: Whether each row gets one id.

        Returns:
            ``(rows, vocab)`` logits after the last new id, and the mask ``(rows, slots)`` with the new slots.
        """
        self.passed += ids.numel()
        # padding repeats the last position: a larger position could change the rotary frequencies
        positions = (mask.sum(1, keepdim=True) + new.cumsum(1) - 1).clamp_min(0)
        mask = torch.cat([mask, new], 1)
        logits = self.weights.logits_at(
            range(len(ids)),
            last,
            input_ids=ids,
            attention_mask=self._seen(mask) if one_more and self.network.takes_seen else mask,
            position_ids=positions,
            use_cache=True,
            **cache_input(self.network.model, cache),
        )
        return logits.float(), mask

    def _seen(self, mask: Tensor) -> Tensor | None:
        """What the new token of each row sees, ``(rows, 1, 1, slots)``; ``None``: everything.

        From a padding mask transformers makes the same for every token, and reads it from the device to do so.
        """
        return None if self._unpadded else mask[:, None, None].bool()

    def _to_front(self, rows: Collection[int]) -> None:
        """Swap rows so that these rows are the first, and let the next pass run only them."""
        order = list(self.fed)
        out = [i for i, row in enumerate(order[: len(rows)]) if row not in rows]
        back = [i for i, row in enumerate(order) if i >= len(rows) and row in rows]
        if out:
            there, here = [*out, *back], [*back, *out]
            for layer in self.cache.layers:
                layer.swap(out, back)
            self.mask[there] = self.mask[here]
            for i, j in zip(out, back, strict=True):
                order[i], order[j] = order[j], order[i]
            self.fed = {row: self.fed[row] for row in order}
        self._show(len(rows))

    def _show(self, rows: int) -> None:
        if self.network.caching == "shared":
            for layer in self.cache.layers:
                layer.show(rows, self.mask.shape[1])

    def _move_up(self) -> None:
        """Move the tokens of every row to the last slots; their order and positions do not change."""
        width = max(map(len, self.fed.values()))
        order = self.mask.argsort(dim=1, stable=True)[:, -width:]  # empty slots first
        self.mask = self.mask.gather(1, order)
        for layer in self.cache.layers:
            layer.reorder(order)
        self._behind.clear()
        self.moved += 1


def passes(lengths: Sequence[int]) -> list[slice]:
    """Rows that are run together, given their new tokens; neighbors, so that their order is kept."""
    found: list[slice] = []
    start = longest = 0
    for i, length in enumerate(lengths):
        longest = max(longest, length)
        if i > start and longest * (i + 1 - start) > TOKENS_PER_PASS:
            found.append(slice(start, i))
            start, longest = i, length
    return [*found, slice(start, len(lengths))]


def _fill(cache: Any, kept: Sequence[KeptRow]) -> Tensor:
    """Put conversations into an empty cache, padded on the left; the mask ``(rows, slots)``."""
    width = max(len(row.ids) for row in kept)
    missing = [width - len(row.ids) for row in kept]
    for layer, states in enumerate(zip(*(row.states for row in kept), strict=True)):
        keys, values = (
            torch.cat([pad(both[side], (0, 0, empty, 0)) for both, empty in zip(states, missing, strict=True)])
            for side in (0, 1)
        )
        cache.update(keys, values, layer)
    mask = torch.ones(len(kept), width, dtype=torch.long, device=kept[0].states[0][0].device)
    for row, empty in enumerate(missing):
        mask[row, :empty] = 0
    return mask


class UncachedRows:
    """Rows of a network without a usable cache: for every new token the whole contexts are run again.

    Args:
        weights: As in :class:`CachedRows`.
    """

    def __init__(self, weights: SamplingWeights) -> None:
        self.network, self.weights = weights.network, weights
        self.fed: dict[int, list[int]] = {}
        """As in :class:`CachedRows`."""
        self.fed_tokens = 0

    def join(self, prompts: Mapping[int, Sequence[int]]) -> Tensor:
        """See :meth:`CachedRows.join`."""
        self.fed.update({row: list(ids) for row, ids in prompts.items()})
        return self._run(prompts)

    def feed(self, new: Mapping[int, Sequence[int]]) -> Tensor:
        """See :meth:`CachedRows.feed`."""
        for row, ids in new.items():
            self.fed[row] += ids
        return self._run(new)

    def drop(self, rows: set[int]) -> None:
        """See :meth:`CachedRows.drop`."""
        self.fed = {row: ids for row, ids in self.fed.items() if row not in rows}

    def _run(self, rows: Mapping[int, Sequence[int]]) -> Tensor:
        contexts = [ids for row, ids in self.fed.items() if row in rows]
        self.fed_tokens += sum(map(len, contexts))
        pieces = [(context, [len(context) - 1]) for context in contexts]
        return self.network.read_padded(self.network.logits_at, pieces, self.weights.weights).float()
