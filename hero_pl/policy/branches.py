"""Scores many continuations of one conversation without running the whole conversation for each of them.

The teacher's context at turn t is the conversation before t, then a hint, then the action. If rows are scored
separately, every turn costs a pass over the whole conversation before it. Here the rows of a conversation form a tree:
its last row is run completely (the *trunk*); every other row (a *branch*) is run only from the first id that differs
from the trunk. The logits equal those of separate passes, up to rounding. The common prefix of a row and the trunk is
found by comparing ids, so no property of the chat template is assumed: if it rewrites the history, a conversation has
several trunks.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from hero_pl.losses.scores import Scores
from hero_pl.policy.base import Policy
from hero_pl.policy.network import Network, Read
from hero_pl.scalars import Scalar, total
from hero_pl.types import ScoreRow

Sharing = Literal["prefix_cache", "tree_mask"]
Scoring = Literal["auto", "separate", "prefix_cache", "tree_mask"]

WORTH = 0.9
"""Rows share a pass if that runs at most this share of their tokens; otherwise they are padded and run as a batch."""

log = logging.getLogger(__name__)

ATTENTION = "hero_pl_branches"
"""Name of the attention of ``tree_mask`` in transformers."""


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


def plan(rows: Sequence[ScoreRow]) -> list[Tree]:
    """Trees of the rows: one per trajectory, or one per part of a trajectory without a rewritten history."""
    branches: dict[int, list[tuple[int, int]]] = {}
    trajectories: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        trajectories.setdefault(row.trajectory, []).append(i)
    for members in trajectories.values():
        trunks: list[int] = []
        for place in reversed(range(len(members))):
            i = members[place]
            shared, trunk = max(((_shared_ids(rows[i], rows[j]), j) for j in trunks), default=(0, i))
            earlier = rows[members[place - 1]] if place else None
            # a rewritten history: this row shares a longer prefix with the row before it than with any trunk
            lone = earlier is not None and all(
                _shared_ids(earlier, rows[i]) > _shared_ids(earlier, rows[j]) for j in trunks
            )
            if trunks and shared and not lone:
                branches[trunk].append((i, shared))
            else:
                trunks.append(i)
                branches[i] = []
    return [Tree(trunk, tuple(reversed(found))) for trunk, found in sorted(branches.items())]


def worth_sharing(rows: Sequence[ScoreRow]) -> tuple[list[Tree], list[int]]:
    """The trees that save tokens, and the rows of all other trees."""
    trees, lone = [], []
    for tree in plan(rows):
        members = sorted([tree.trunk, *(i for i, _ in tree.branches)])
        if tree.branches and tree.forwarded(rows) <= WORTH * sum(len(rows[i].ids) for i in members):
            trees.append(tree)
        else:
            lone += members
    return trees, sorted(lone)


def forwarded_tokens(rows: Sequence[ScoreRow]) -> int:
    """Tokens that the network runs if it can share prefixes."""
    return _cost(rows, *worth_sharing(rows))


def _cost(rows: Sequence[ScoreRow], trees: Sequence[Tree], lone: Sequence[int]) -> int:
    return sum(tree.forwarded(rows) for tree in trees) + sum(len(rows[i].ids) for i in lone)


class BranchScorer:
    """Logits of rows that share prefixes.

    Uses separate passes if the network cannot share prefixes, and reports the reason once.

    Args:
        how: ``prefix_cache`` keeps keys and values of the trunk and runs one branch after the other. ``tree_mask`` runs
            trunk and branches as one sequence, in which a branch attends to its prefix of the trunk and to itself.
            ``auto`` uses ``tree_mask`` if the network supports it, otherwise ``prefix_cache``.
    """

    def __init__(self, how: Literal["auto", "prefix_cache", "tree_mask"] = "auto") -> None:
        self.how = how
        self.chosen: Sharing = "tree_mask" if how == "auto" else how
        """The method for rows that share a pass."""
        self.forwarded = 0
        """Tokens that the network has run so far."""
        self.reason: str | None = None
        """Reason why rows are scored separately; ``None`` if they are not."""
        self._checked: set[int] = set()
        self._told = self._told_of_rope = False

    def score(self, policy: Policy, rows: Sequence[ScoreRow], weights: str) -> Tensor:
        """See :meth:`Policy.score`; no gradient flows."""
        network = self._sharing(policy, rows, weights)
        if network is None:
            return policy.score(rows, weights)
        return self._shared(network, network.logits_at, rows, weights)

    def scores(self, policy: Policy, rows: Sequence[ScoreRow], weights: str) -> Scores:
        """See :meth:`Policy.scores`; no gradient flows."""
        network = self._sharing(policy, rows, weights)
        if network is None:
            return policy.scores(rows, weights)
        if network.plain_head:
            return network.projected(self._shared(network, network.hidden_at, rows, weights), weights)
        return Scores(self._shared(network, network.logits_at, rows, weights))

    def _sharing(self, policy: Policy, rows: Sequence[ScoreRow], weights: str) -> Network | None:
        """The network if it can share prefixes; otherwise ``None``, and the rows are counted as separate passes."""
        if rows and self.shares(policy, rows, weights):
            return policy.network
        self.forwarded += sum(len(row.ids) for row in rows)
        return None

    def describe(self, policy: Policy, rows: Sequence[ScoreRow], weights: str, rewritten: int) -> dict[str, Scalar]:
        """Metrics of the cost of scoring ``rows``.

        Args:
            policy: A loaded policy.
            rows: Rows of one step.
            weights: Weights that will score.
            rewritten: Number of contexts that do not continue the context before them; each needs a separate pass.
        """
        if rewritten and not self._told:
            self._told = True
            warnings.warn(
                f"teacher_scoring: the chat template rewrote the history {rewritten} times in this step; turns before "
                "such a place do not share their context with those after it.",
                stacklevel=2,
            )
        tokens = forwarded_tokens(rows) if self.shares(policy, rows, weights) else sum(len(row.ids) for row in rows)
        return {"teacher/forwarded_tokens": total(tokens), "teacher/rewritten_histories": total(rewritten)}

    def shares(self, policy: Policy, rows: Sequence[ScoreRow], weights: str) -> bool:
        """Whether these rows will share passes."""
        return self.can_share(policy, weights) and not self._crosses(policy, rows)

    def _crosses(self, policy: Policy, rows: Sequence[ScoreRow]) -> bool:
        """Whether a row is so long that its rotary positions change; keys from shorter contexts are then not valid."""
        switches = policy.network.rope_switches if policy.network is not None else ()
        longest = max((len(row.ids) for row in rows), default=0)
        if not switches or longest <= switches[0]:
            return False
        if not self._told_of_rope:
            self._told_of_rope = True
            warnings.warn(
                f"teacher_scoring: {self.chosen} falls back to separate passes in steps with more than {switches[0]} "
                "tokens in a context, where the rotary positions of this model change.",
                stacklevel=3,
            )
        return True

    @torch.no_grad()
    def _shared(self, network: Network, read: Read, rows: Sequence[ScoreRow], weights: str) -> Tensor:
        found: list[Tensor | None] = [None] * len(rows)
        run = _prefix_cache if self.chosen == "prefix_cache" else _tree_mask
        trees, lone = worth_sharing(rows)
        self.forwarded += _cost(rows, trees, lone)
        with network.using(weights) as model:
            for tree in trees:
                for i, scored in run(model, read, rows, tree):
                    found[i] = scored
        if lone:
            alone = [rows[i] for i in lone]
            parts = network.read_rows(read, alone, weights).split_with_sizes([row.scored for row in alone])
            for i, scored in zip(lone, parts, strict=True):
                found[i] = scored
        return torch.cat([scored for scored in found if scored is not None])

    def can_share(self, policy: Policy, weights: str) -> bool:
        """Whether the network can share prefixes: compared with separate passes on a few test rows, once per policy."""
        if self.reason is None and id(policy) not in self._checked:
            self._checked.add(id(policy))
            ways: tuple[Sharing, ...] = ("tree_mask", "prefix_cache") if self.how == "auto" else (self.how,)
            for self.chosen in ways:
                with policy.sampling():  # in training mode, gradient checkpointing would drop the cache
                    self.reason = self._obstacle(policy, weights)
                if self.reason is None:
                    break
            if self.reason is not None:
                said = f"teacher_scoring: {self.how} falls back to separate passes: {self.reason}."
                if self.how == "auto":
                    log.info(said)
                else:
                    warnings.warn(said, stacklevel=2)
        return self.reason is None

    @torch.no_grad()
    def _obstacle(self, policy: Policy, weights: str) -> str | None:
        network = policy.network
        if network is None:
            return f"{type(policy).__name__} has no network to share"
        if policy.template.hint_position == "system":
            return "hint_position: system puts the hint before the conversation; before_action shares it"
        if self.chosen in network.obstacles:
            return network.obstacles[self.chosen]
        vocabulary = int(network.model.config.get_text_config().vocab_size)
        ids = [i % vocabulary for i in range(24)]
        rows = [ScoreRow((*ids[:start], *ids[9:15]), ((start + 3, start + 6),)) for start in (8, 14, 20)]
        try:
            got = self._shared(network, network.logits_at, rows, weights)
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            return f"the network raises an error ({error})"
        want = torch.cat([policy.score([row], weights) for row in rows])
        allowed = 1e-4 if got.dtype in (torch.float32, torch.float64) else 5e-2
        if not torch.allclose(got, want, rtol=0.0, atol=allowed * max(1.0, float(want.abs().max()))):
            return "its logits would change, so some layers are not plain attention"
        return None


def _prefix_cache(model: Any, read: Read, rows: Sequence[ScoreRow], tree: Tree) -> Iterator[tuple[int, Tensor]]:
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    yield tree.trunk, _continue(model, read, rows[tree.trunk], 0, cache)
    kept = [(layer.keys, layer.values) for layer in cache.layers]
    for i, shared in tree.branches:
        for layer, (keys, values) in zip(cache.layers, kept, strict=True):
            layer.keys, layer.values = keys[:, :, :shared], values[:, :, :shared]  # appending makes new tensors
        yield i, _continue(model, read, rows[i], shared, cache)


def _continue(model: Any, read: Read, row: ScoreRow, start: int, cache: Any) -> Tensor:
    """Run ``row`` from position ``start`` on; the cache holds the ids before it."""
    ids = torch.tensor([row.ids[start:]], device=model.device)
    positions = torch.arange(start, len(row.ids), device=model.device)[None]
    places = [position - start for position in row.read]
    inputs = {"input_ids": ids, "position_ids": positions, "past_key_values": cache, "use_cache": True}
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


def _tree_mask(model: Any, read: Read, rows: Sequence[ScoreRow], tree: Tree) -> Iterator[tuple[int, Tensor]]:
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
        "branch_spans": layout.spans,
        "trunk_length": layout.trunk,
    }
    with _branch_attention_in(model):
        return read(model, [0] * len(layout.read), list(layout.read), **inputs)


@contextmanager
def _branch_attention_in(model: Any) -> Iterator[None]:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, branch_attention)
    config = (model.get_base_model() if hasattr(model, "get_base_model") else model).config
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def branch_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    branch_spans: Sequence[tuple[int, int, int]] = (),
    trunk_length: int = 0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention in the trunk; each branch attends to its own prefix of the trunk and to itself.

    Args:
        module: The layer; not used.
        query: ``(1, heads, length, head size)``.
        key: ``(1, key heads, length, head size)``.
        value: Like ``key``.
        attention_mask: Not used.
        scaling: Factor of the attention scores.
        branch_spans: See :class:`Layout`.
        trunk_length: See :class:`Layout`.
        options: Other options that the network passes to its attention.

    Returns:
        ``(1, length, heads, head size)``, and ``None`` instead of attention weights.

    Raises:
        ValueError: The network needs a feature that this attention does not have: a window, a soft cap or sinks.
    """
    asked = [name for name in ("sliding_window", "softcap", "s_aux") if options.get(name) is not None]
    if asked:
        raise ValueError(f"tree_mask has no {', '.join(asked)}; prefix_cache keeps the network's own attention")
    grouped = key.shape[1] != query.shape[1]
    sdpa = partial(torch.nn.functional.scaled_dot_product_attention, scale=scaling, enable_gqa=grouped)
    head = slice(0, trunk_length)
    parts = [sdpa(query[:, :, head], key[:, :, head], value[:, :, head], is_causal=True)]
    for start, stop, shared in branch_spans:
        own_key, own_value = (torch.cat([x[:, :, :shared], x[:, :, start:stop]], 2) for x in (key, value))
        new = stop - start
        seen = torch.ones(new, shared + new, dtype=torch.bool, device=query.device).tril(shared)
        parts.append(sdpa(query[:, :, start:stop], own_key, own_value, attn_mask=seen))
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


def _shared_ids(row: ScoreRow, other: ScoreRow) -> int:
    """Length of the prefix of ``row`` that need not be run again after ``other``.

    The id before the first action is always run, because its logits predict the action. A binary search compares
    slices, which is faster than comparing id by id.
    """
    left, right = row.ids, other.ids
    low, high = 0, min(row.spans[0][0] - 1, len(right))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if left[low:middle] == right[low:middle] else (low, middle - 1)
    return low
