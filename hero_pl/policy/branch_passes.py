"""Run rows that share their beginnings: one after the other on cached keys and values, or as one sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hero_pl.policy.attention import attend, attention_in
from hero_pl.policy.cache_input import cache_input
from hero_pl.policy.network import Read, States, Trunk
from hero_pl.types import ScoreRow

Place: TypeAlias = tuple[int, int]
"""Number of a trunk, and how many ids at its beginning a row has in common with it."""

ATTENTION = "hero_pl_branches"
"""Name of the attention of ``tree_mask`` in transformers."""

TOGETHER = 1 << 17
"""Largest number of pairs of a new and an old token of branches that attend together, if they are several."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Rows that are scored together."""

    trunk: int
    """Number of the row that is run completely."""
    branches: tuple[tuple[int, int], ...]
    """``(row, length of the prefix that it shares with the trunk)``."""

    def forwarded(self, rows: Sequence[ScoreRow]) -> int:
        """Tokens that go through the network."""
        return len(rows[self.trunk].ids) + sum(len(rows[i].ids) - shared for i, shared in self.branches)


def prefix_cache(model: Any, read: Read, rows: Sequence[ScoreRow], tree: Tree) -> Iterator[tuple[int, Tensor]]:
    """Run the trunk, then each branch on its keys and values; ``(row, what was read)``."""
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    yield tree.trunk, _continue(model, read, rows[tree.trunk], 0, cache)
    kept = [(layer.keys, layer.values) for layer in cache.layers]
    for i, shared in tree.branches:
        for layer, (keys, values) in zip(cache.layers, kept, strict=True):
            layer.keys, layer.values = keys[:, :, :shared], values[:, :, :shared]  # appending makes new tensors
        yield i, _continue(model, read, rows[i], shared, cache)


def on_prefixes(
    model: Any, read: Read, rows: Sequence[ScoreRow], trunks: Sequence[Trunk], places: Sequence[Place]
) -> Tensor:
    """Run each row on the keys and values of a trunk that was run before; what was read, in the order of the rows."""
    from transformers import DynamicCache

    found = []
    for row, (trunk, shared) in zip(rows, places, strict=True):
        cache: Any = DynamicCache()
        for layer, (keys, values) in enumerate(trunks[trunk].states if shared else ()):
            cache.update(keys[:, :, :shared], values[:, :, :shared], layer)
        found.append(_continue(model, read, row, shared, cache))
    return torch.cat(found)


def _continue(model: Any, read: Read, row: ScoreRow, start: int, cache: Any) -> Tensor:
    """Run ``row`` from position ``start`` on; the cache holds the ids before it."""
    ids = torch.tensor([row.ids[start:]], device=model.device)
    positions = torch.arange(start, len(row.ids), device=model.device)[None]
    places = [position - start for position in row.read]
    inputs = {"input_ids": ids, "position_ids": positions, "use_cache": True, **cache_input(model, cache)}
    return read(model, [0] * len(places), places, **inputs)


@dataclass(frozen=True, slots=True)
class Layout:
    """One sequence for a whole tree: the trunk, then the ids of each branch after its shared prefix."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    """Positions of the ids in their rows."""
    trunk: int
    """Length of the trunk."""
    spans: tuple[tuple[int, int, int], ...]
    """``(start, stop, length of the shared prefix)`` of each branch."""
    read: tuple[int, ...]
    """Positions whose logits are needed: those of the trunk, then those of each branch."""
    states: tuple[States, ...] = ()
    """Of each branch, the keys and values of a trunk that was run before; empty if the trunk is in the sequence."""


@dataclass(frozen=True, slots=True)
class Block:
    """Neighboring branches of one trunk that attend in one call."""

    start: int
    stop: int
    """The part of the sequence that has these branches."""
    shared: int
    """Length of the longest prefix that one of them shares with the trunk."""
    seen: Tensor
    """``(1, 1, stop - start, shared + stop - start)``, True where a token of the trunk or of the block is seen."""
    states: States | None
    """Keys and values of a trunk that was run before; ``None`` if the trunk is in the sequence."""


def blocks_of(layout: Layout, device: torch.device) -> list[Block]:
    """Join small branches: they attend in fewer calls, though to pairs of tokens that are masked."""
    groups: list[list[int]] = []
    for i, (_, stop, shared) in enumerate(layout.spans):
        if groups and (not layout.states or layout.states[i] is layout.states[groups[-1][0]]):
            start = layout.spans[groups[-1][0]][0]
            longest = max(shared, *(layout.spans[j][2] for j in groups[-1]))
            if (stop - start) * (longest + stop - start) <= TOGETHER:
                groups[-1].append(i)
                continue
        groups.append([i])
    return [_block(layout, group, device) for group in groups]


def _block(layout: Layout, group: Sequence[int], device: torch.device) -> Block:
    spans = [layout.spans[i] for i in group]
    start, stop, longest = spans[0][0], spans[-1][1], max(shared for _, _, shared in spans)
    seen = torch.zeros(stop - start, longest + stop - start, dtype=torch.bool)
    for first, end, shared in spans:
        rows, own = slice(first - start, end - start), longest + first - start
        seen[rows, :shared] = True
        seen[rows, own : own + end - first] = torch.ones(end - first, end - first, dtype=torch.bool).tril()
    return Block(start, stop, longest, seen.to(device)[None, None], layout.states[group[0]] if layout.states else None)


def tree_layout(rows: Sequence[ScoreRow], tree: Tree) -> Layout:
    """The layout of a tree as one sequence."""
    trunk = rows[tree.trunk]
    ids, positions, read = list(trunk.ids), list(range(len(trunk.ids))), list(trunk.read)
    spans: list[tuple[int, int, int]] = []
    for i, shared in tree.branches:
        start = len(ids)
        ids += rows[i].ids[shared:]
        positions += range(shared, len(rows[i].ids))
        read += [start + place - shared for place in rows[i].read]
        spans.append((start, len(ids), shared))
    return Layout(tuple(ids), tuple(positions), len(trunk.ids), tuple(spans), tuple(read))


def layout_on(rows: Sequence[ScoreRow], trunks: Sequence[Trunk], places: Sequence[Place]) -> Layout:
    """Lay out what is new of each row as one sequence, on top of trunks that were run before."""
    ids: list[int] = []
    positions: list[int] = []
    read: list[int] = []
    spans: list[tuple[int, int, int]] = []
    for row, (_, shared) in zip(rows, places, strict=True):
        start = len(ids)
        ids += row.ids[shared:]
        positions += range(shared, len(row.ids))
        read += [start + place - shared for place in row.read]
        spans.append((start, len(ids), shared))
    states = tuple(trunks[trunk].states for trunk, _ in places)
    return Layout(tuple(ids), tuple(positions), 0, tuple(spans), tuple(read), states)


def on_trunks(
    model: Any, read: Read, rows: Sequence[ScoreRow], trunks: Sequence[Trunk], places: Sequence[Place]
) -> Tensor:
    """:func:`on_prefixes` for all rows at once."""
    return run_layout(model, read, layout_on(rows, trunks, places))


def tree_mask(model: Any, read: Read, rows: Sequence[ScoreRow], tree: Tree) -> Iterator[tuple[int, Tensor]]:
    """Run trunk and branches as one sequence; ``(row, what was read)``."""
    order = [tree.trunk, *(i for i, _ in tree.branches)]
    found = run_layout(model, read, tree_layout(rows, tree))
    yield from zip(order, torch.split(found, [rows[i].scored for i in order]), strict=True)


def run_layout(model: Any, read: Read, layout: Layout) -> Tensor:
    """Logits or hidden states at the positions ``layout.read``."""
    device = model.device
    inputs = {
        "input_ids": torch.tensor([layout.ids], device=device),
        "position_ids": torch.tensor([layout.positions], device=device),
        # transformers passes on a mask with four dimensions unchanged, so no mask of quadratic size is created
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
        "use_cache": False,
        "branch_blocks": blocks_of(layout, device),
        "trunk_length": layout.trunk,
    }
    with attention_in(model, ATTENTION, branch_attention):
        return read(model, [0] * len(layout.read), list(layout.read), **inputs)


def branch_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    branch_blocks: Sequence[Block] = (),
    trunk_length: int = 0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention in the trunk; each branch attends to its own prefix of the trunk and to itself.

    Args:
        module: The layer; its ``layer_idx`` chooses among the states.
        query: ``(1, heads, length, head size)``.
        key: ``(1, key heads, length, head size)``.
        value: Like ``key``.
        attention_mask: Not used.
        scaling: Factor of the attention scores.
        branch_blocks: The branches, see :func:`blocks_of`.
        trunk_length: See :attr:`Layout.trunk`.
        options: Other options that the network passes to its attention.

    Returns:
        ``(1, length, heads, head size)``, and ``None`` instead of attention weights.

    Raises:
        ValueError: The network needs a feature that this attention does not have: a window, a soft cap or sinks.
    """
    asked = [name for name in ("sliding_window", "softcap", "s_aux") if options.get(name) is not None]
    if asked:
        raise ValueError(f"tree_mask has no {', '.join(asked)}; prefix_cache keeps the network's own attention")
    parts = []
    if trunk_length:
        own = [states[:, :, :trunk_length] for states in (query, key, value)]
        grouped = key.shape[1] != query.shape[1]
        parts.append(
            scaled_dot_product_attention(own[0], own[1], own[2], is_causal=True, scale=scaling, enable_gqa=grouped)
        )
    for block in branch_blocks:
        before = block.states[module.layer_idx] if block.states is not None else (key, value)
        own_key, own_value = (
            torch.cat([old[:, :, : block.shared], new[:, :, block.start : block.stop]], 2)
            for old, new in zip(before, (key, value), strict=True)
        )
        parts.append(attend(query[:, :, block.start : block.stop], own_key, own_value, block.seen, scaling))
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None
