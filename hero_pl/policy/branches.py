"""Scores many continuations of one conversation without running the whole conversation for each of them.

The teacher's context at turn t is the conversation before t, then a hint, then the action. If rows are scored
separately, every turn costs a pass over the whole conversation before it. Here the rows of a conversation form a tree:
its last row is run completely (the *trunk*); every other row (a *branch*) is run only from the first id that differs
from the trunk. The logits equal those of separate passes, up to rounding. The common prefix of a row and the trunk is
found by comparing ids, so no property of the chat template is assumed: if it rewrites the history, a conversation has
several trunks.

The trunk of the live weights need not be run at all while the student's rows are scored with gradients
(:meth:`Network.keeping`): the teacher then runs on the keys and values of the student's own pass. Frozen weights that
have also reviewed the episodes lend theirs (:meth:`Sampler.keeping`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from hero_pl.losses.scores import Scores
from hero_pl.policy.base import Policy
from hero_pl.policy.branch_passes import Place, Tree, on_prefixes, on_trunks, prefix_cache, tree_mask
from hero_pl.policy.cached_rows import CachedRows
from hero_pl.policy.network import TOKENS_PER_PASS, Network, Read, States, Trunk
from hero_pl.policy.sampling_weights import SamplingWeights
from hero_pl.scalars import Scalar, total
from hero_pl.types import ScoreRow

Sharing = Literal["prefix_cache", "tree_mask"]
Scoring = Literal["auto", "separate", "prefix_cache", "tree_mask"]

WORTH = 0.9
"""Rows share a pass if that runs at most this share of their tokens; otherwise they are padded and run as a batch."""

log = logging.getLogger(__name__)


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


def forwarded_tokens(rows: Sequence[ScoreRow], trunks: Sequence[ScoreRow] = ()) -> int:
    """Tokens that the network runs if it can share prefixes.

    Args:
        rows: To score.
        trunks: Rows that the same weights have run before, whose keys and values are at hand.
    """
    alone = _cost(rows, *worth_sharing(rows))
    return min(alone, _cost_on(rows, places_on(rows, trunks))) if trunks else alone


def places_on(rows: Sequence[ScoreRow], trunks: Sequence[ScoreRow]) -> list[Place]:
    """For each row the trunk of its trajectory that has most in common with it."""
    of_trajectory: dict[int, list[int]] = {}
    for number, trunk in enumerate(trunks):
        of_trajectory.setdefault(trunk.trajectory, []).append(number)
    places = []
    for row in rows:
        shared = [(_shared_ids(row, trunks[number]), number) for number in of_trajectory.get(row.trajectory, ())]
        most, number = max(shared, default=(0, 0))
        places.append((number, most))
    return places


def _cost_on(rows: Sequence[ScoreRow], places: Sequence[Place]) -> int:
    return sum(len(row.ids) - shared for row, (_, shared) in zip(rows, places, strict=True))


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
        self._tried: set[int] = set()
        self.not_borrowed: str | None = None
        """Why rows of the live weights do not run on the keys and values of the student's pass, if they do not."""
        self.not_taken: str | None = None
        """Why rows of frozen weights do not run on conversations that these have sampled, if they do not."""
        self._told = self._told_of_rope = self._told_of_borrowing = False

    def score(self, policy: Policy, rows: Sequence[ScoreRow], weights: str) -> Tensor:
        """See :meth:`Policy.score`; no gradient flows."""
        network = self._sharing(policy, rows, weights)
        if network is None:
            return policy.score(rows, weights)
        return self._shared(network, network.logits_at, rows, weights)

    def scores(self, policy: Policy, rows: Sequence[ScoreRow], weights: str, trunks: Sequence[Trunk] = ()) -> Scores:
        """See :meth:`Policy.scores`; no gradient flows.

        Args:
            policy: The policy.
            rows: To score.
            weights: Name of the weights.
            trunks: Rows that these weights have run before.
        """
        network = self._sharing(policy, rows, weights)
        if network is None:
            return policy.scores(rows, weights)
        if network.plain_head:
            return network.projected(self._shared(network, network.hidden_at, rows, weights, trunks), weights)
        return Scores(self._shared(network, network.logits_at, rows, weights, trunks))

    def _sharing(self, policy: Policy, rows: Sequence[ScoreRow], weights: str) -> Network | None:
        """The network if it can share prefixes; otherwise ``None``, and the rows are counted as separate passes."""
        if rows and self.shares(policy, rows, weights):
            return policy.network
        self.forwarded += sum(len(row.ids) for row in rows)
        return None

    def rewritten(self, rewritten: int) -> dict[str, Scalar]:
        """The metric of rewritten histories.

        Args:
            rewritten: Places where a context does not continue the one before; each costs a pass over what precedes.
        """
        if rewritten and not self._told:
            self._told = True
            warnings.warn(
                f"teacher_scoring: the chat template rewrote the history {rewritten} times in this step; turns before "
                "such a place do not share their context with those after it.",
                stacklevel=2,
            )
        return {"teacher/rewritten_histories": total(rewritten)}

    def borrows(self, policy: Policy) -> bool:
        """Whether rows of the live weights run on the keys and values that the student's pass keeps."""
        if not self.can_share(policy, "live"):
            return False
        assert policy.network is not None
        self.not_borrowed = self.not_borrowed or policy.network.keeps_nothing
        if self.not_borrowed is not None and not self._told_of_borrowing:
            self._told_of_borrowing = True
            log.info(f"teacher_scoring: the live teacher runs the conversation itself: {self.not_borrowed}.")
        return self.not_borrowed is None

    def takes(self, policy: Policy, weights: str) -> bool:
        """Whether rows of frozen weights run on conversations that the sampler has run with them."""
        if not self.can_share(policy, weights):
            return False
        if id(policy) not in self._tried:
            self._tried.add(id(policy))
            forwarded = self.forwarded
            with policy.sampling():
                self.not_taken = self._not_taken(policy, weights)
            self.forwarded = forwarded
            if self.not_taken is not None:
                log.info(f"teacher_scoring: the teacher runs reviewed conversations itself: {self.not_taken}.")
        return self.not_taken is None

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
    def _shared(
        self, network: Network, read: Read, rows: Sequence[ScoreRow], weights: str, trunks: Sequence[Trunk] = ()
    ) -> Tensor:
        trees, lone = worth_sharing(rows)
        tokens = _cost(rows, trees, lone)
        if weights == "live":
            trunks = network.trunks or ()
        if trunks:
            places = places_on(rows, [trunk.row for trunk in trunks])
            if _cost_on(rows, places) <= tokens:
                with network.using(weights) as model:
                    return self._borrowed(model, read, rows, trunks, places)
        self.forwarded += tokens
        found: list[Tensor | None] = [None] * len(rows)
        run = prefix_cache if self.chosen == "prefix_cache" else tree_mask
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

    def _borrowed(
        self,
        model: Any,
        read: Read,
        rows: Sequence[ScoreRow],
        trunks: Sequence[Trunk],
        places: Sequence[Place],
    ) -> Tensor:
        """Run only what the trunks do not have, in passes of limited size."""
        self.forwarded += _cost_on(rows, places)
        run = on_prefixes if self.chosen == "prefix_cache" else on_trunks
        parts, first, size = [], 0, 0
        for i, (row, (_, shared)) in enumerate(zip(rows, places, strict=True)):
            size += len(row.ids) - shared
            if size >= TOKENS_PER_PASS or i + 1 == len(rows):
                parts.append(run(model, read, rows[first : i + 1], trunks, places[first : i + 1]))
                first, size = i + 1, 0
        return torch.cat(parts)

    def can_share(self, policy: Policy, weights: str) -> bool:
        """Whether the network can share prefixes: compared with separate passes on a few test rows, once per policy."""
        if self.reason is None and id(policy) not in self._checked:
            self._checked.add(id(policy))
            network = policy.network
            forwarded, passes = self.forwarded, network.passes if network else 0
            ways: tuple[Sharing, ...] = ("tree_mask", "prefix_cache") if self.how == "auto" else (self.how,)
            for self.chosen in ways:
                with policy.sampling():  # in training mode, gradient checkpointing would drop the cache
                    self.reason = self._obstacle(policy, weights)
                    if self.reason is None:
                        self.not_borrowed = self._obstacle(policy, "live", borrow=True)
                if self.reason is None:
                    break
            self.forwarded = forwarded
            if network is not None:
                network.passes = passes  # those of the test are in no loss
            if self.reason is not None:
                said = f"teacher_scoring: {self.how} falls back to separate passes: {self.reason}."
                if self.how == "auto":
                    log.info(said)
                else:
                    warnings.warn(said, stacklevel=2)
        return self.reason is None

    def _not_taken(self, policy: Policy, weights: str) -> str | None:
        """Why rows cannot run on keys and values from the sampler's cache."""
        network = policy.network
        assert network is not None
        if network.caching != "shared" or network.rope_switches:
            return "the sampler keeps no keys and values that other passes could use"
        return self._obstacle(policy, weights, take=True)

    @torch.no_grad()
    def _obstacle(self, policy: Policy, weights: str, borrow: bool = False, take: bool = False) -> str | None:
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
        trunks: list[Trunk] = []
        try:
            with network.keeping() if borrow and network.keeps_nothing is None else nullcontext():
                if borrow:
                    with torch.enable_grad():
                        network.read_rows(network.logits_at, rows[-1:], weights)
                if take:
                    trunks = [Trunk(rows[-1], _sampled_states(policy, weights, rows[-1].ids))]
                got = self._shared(network, network.logits_at, rows, weights, trunks)
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            return f"the network raises an error ({error})"
        want = torch.cat([policy.score([row], weights) for row in rows])
        allowed = 1e-4 if got.dtype in (torch.float32, torch.float64) else 5e-2
        if not torch.allclose(got, want, rtol=0.0, atol=allowed * max(1.0, float(want.abs().max()))):
            return "its logits would change, so some layers are not plain attention"
        return None


def _sampled_states(policy: Policy, weights: str, ids: tuple[int, ...]) -> States:
    """Keys and values as the sampler has them in its cache."""
    assert policy.network is not None
    sampler = SamplingWeights(policy.network, weights, merge=False, pack=False)  # no copies for a few tokens
    with sampler.ready(policy.version):
        batch = CachedRows(sampler)
        batch.join({0: ids})
        return batch.states_of(0)


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
