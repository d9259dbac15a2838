"""What a network says at the action positions of rows: one padded pass, or one per set of rotary frequencies."""

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
    """One pass over sequences, padded on the right; what it has at the positions of each."""
    length = max(len(piece) for piece, _ in pieces)
    ids = torch.zeros(len(pieces), length, dtype=torch.long)
    mask = torch.zeros(len(pieces), length, dtype=torch.long)
    row_index: list[int] = []
    position: list[int] = []
    for i, (piece, places) in enumerate(pieces):
        ids[i, : len(piece)] = torch.tensor(piece)
        mask[i, : len(piece)] = 1
        row_index += [i] * len(places)
        position += places
    device = network.device
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "use_cache": False}
    with network.using(weights) as model:
        return read(model, row_index, position, **inputs)
