"""What a network gives at the action positions of rows, in padded passes over rows of like length.

Rows are padded on the right and attention is causal, so no action position sees padding: no attention mask is made,
which would cost attention its fast kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hero_pl.policy.positions import stretch

if TYPE_CHECKING:
    from hero_pl.policy.base import ScoreRow
    from hero_pl.policy.network import Network

Read = Callable[..., Tensor]
"""What is taken from a pass: :meth:`Network.logits_at` or :meth:`Network.hidden_at`."""

TOKENS_PER_PASS = 16_384
"""Padded tokens of one pass without gradients: every hinted turn brings its whole context."""

PADDING, PADDING_SHARE = 512, 0.2
"""Padding that a pass may hold, in tokens and as a share of it: a pass of its own costs more than some padding."""


def read_rows(network: Network, read: Read, rows: Sequence[ScoreRow], weights: str) -> Tensor:
    """Logits, or hidden states, that predict each action token, in the order of rows and spans.

    Args:
        network: Runs the rows, padded on the right.
        read: What is taken.
        rows: With their action spans.
        weights: ``live`` (gradients flow), or a frozen copy.
    """
    switches = network.rope_switches
    if not switches:
        return read_padded(network, read, [(row.ids, row.read) for row in rows], weights)
    # the context up to a token decides on its rotary positions, so a row is cut where they change
    places = [(stretch(p + 1, switches), i, p) for i, row in enumerate(rows) for p in row.read]
    parts: list[Tensor] = []
    for number in sorted({number for number, _, _ in places}):
        inside = [[p for p in row.read if stretch(p + 1, switches) == number] for row in rows]
        pieces = [(row.ids[: there[-1] + 1], there) for row, there in zip(rows, inside, strict=True) if there]
        parts.append(read_padded(network, read, pieces, weights))
    back = torch.tensor(sorted(range(len(places)), key=lambda i: places[i])).argsort()
    return torch.cat(parts)[back.to(network.device)]


def read_padded(
    network: Network, read: Read, pieces: Sequence[tuple[Sequence[int], Sequence[int]]], weights: str
) -> Tensor:
    """What the network has at the positions of each sequence, in the order of sequences and positions."""
    found: dict[int, Tensor] = {}
    # with gradients all passes are kept for the backward pass anyway: the micro-batch bounds them
    most = None if torch.is_grad_enabled() else TOKENS_PER_PASS
    with network.using(weights) as model:
        for group in alike([len(piece) for piece, _ in pieces], most):
            ids = torch.zeros(len(group), max(len(pieces[i][0]) for i in group), dtype=torch.long)
            for place, i in enumerate(group):
                ids[place, : len(pieces[i][0])] = torch.tensor(pieces[i][0])
            row = [place for place, i in enumerate(group) for _ in pieces[i][1]]
            position = [position for i in group for position in pieces[i][1]]
            got = read(model, row, position, input_ids=ids.to(network.device), use_cache=False)
            found.update(zip(group, got.split_with_sizes([len(pieces[i][1]) for i in group]), strict=True))
    return torch.cat([found[i] for i in range(len(pieces))])


def alike(lengths: Sequence[int], most: int | None = None) -> list[list[int]]:
    """Groups of sequences that are padded to one length, as numbers of the sequences.

    Args:
        lengths: Of the sequences.
        most: Tokens per group at most, padding included, unless a sequence alone has more; ``None`` for any number.
    """
    groups: list[list[int]] = []
    waste = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups:
            longest = lengths[groups[-1][0]]
            size, more = longest * (len(groups[-1]) + 1), waste + longest - lengths[i]
            if (most is None or size <= most) and more <= max(PADDING, PADDING_SHARE * size):
                groups[-1].append(i)
                waste = more
                continue
        groups.append([i])
        waste = 0
    return [sorted(group) for group in groups]
