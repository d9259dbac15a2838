"""A short name for the contents of weights, to see whether two sets are the same without keeping either."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from hero_pl.sharded import whole

SAMPLE = 64
"""Elements of each tensor whose order counts."""
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Hash of names, shapes, precisions and values; the same on every device, and for weights in parts.

    Of the values it takes the sum of all bit patterns, which any changed element changes, and a sample in its order.

    Example:
        >>> left, right = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([2.0, 1.0])}
        >>> fingerprint(left) == fingerprint(dict(left)), fingerprint(left) == fingerprint(right)
        (True, False)
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        bits = whole(weights[name].detach()).reshape(-1)
        digest.update(f"{name} {tuple(weights[name].shape)} {bits.dtype} ".encode())
        if bits.device.type != "meta" and bits.numel():
            bits = bits.view(_BITS[bits.element_size()])
            sample = bits[:: max(1, bits.numel() // SAMPLE)]
            digest.update(f"{bits.sum(dtype=torch.int64).item()} {sample.tolist()}\n".encode())
    return digest.hexdigest()
