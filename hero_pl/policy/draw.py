"""Draw tokens from logits, with random numbers that belong to the row."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 128
"""Tokens whose probabilities are added in single precision; the sums of these blocks are added in double precision."""


class Stream:
    """Random numbers of one row. They do not depend on how many are read ahead.

    Args:
        seed: Seed of the row.
    """

    def __init__(self, seed: int) -> None:
        self._source = np.random.Generator(np.random.Philox(key=seed % 2**64))
        self._ahead: list[float] = []

    def look(self, count: int) -> list[float]:
        """The next ``count`` numbers in [0, 1), without using them."""
        self._ahead += self._source.random(max(count - len(self._ahead), 0)).tolist()
        return self._ahead[:count]

    def skip(self, count: int) -> None:
        """Mark ``count`` numbers as used."""
        del self._ahead[:count]


def draw(logits: Tensor, divisor: float, uniform: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draw one token per row; nothing is copied to the host.

    Args:
        logits: ``(rows, vocab)`` in single precision; minus infinity has probability 0.
        divisor: Temperature.
        uniform: ``(rows,)`` numbers in [0, 1), on the same device; ``None`` takes the most probable token.

    Returns:
        ``(rows,)`` tokens and their log-probabilities; not finite where a row of logits is not a distribution.
    """
    logits = logits if divisor == 1.0 else logits / divisor
    probabilities = logits.softmax(-1)
    tokens = _most_probable(logits) if uniform is None else _inverse(probabilities, uniform[:, None])
    tokens = tokens.clamp_max(logits.shape[-1] - 1)  # where the logits are NaN
    return tokens.squeeze(-1), probabilities.gather(-1, tokens).log().squeeze(-1)


def _most_probable(logits: Tensor) -> Tensor:
    """``argmax`` by blocks, which is faster; the first of equal values."""
    blocks = _blocks(logits, -torch.inf)
    block = blocks.amax(-1).argmax(-1, keepdim=True)
    return block * BLOCK + _of(blocks, block).argmax(-1, keepdim=True)


def _inverse(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse of the cumulative distribution: find the block, then the token in it."""
    wide = torch.float32 if probabilities.device.type == "mps" else torch.float64  # it has no double precision
    below = 1.0 - 16.0 * torch.finfo(wide).eps  # after rounding, the target is still less than the sum
    blocks = _blocks(probabilities, 0.0)
    mass = blocks.sum(-1).to(wide)
    cumulative = mass.cumsum(-1)
    whole = cumulative[:, -1:]
    target = torch.minimum(uniform.to(wide) * whole, whole * below)
    block = torch.searchsorted(cumulative, target, right=True).clamp_max(cumulative.shape[-1] - 1)
    inside = _of(blocks, block).to(wide).cumsum(-1)
    rest = target - (cumulative - mass).gather(-1, block)
    rest = torch.minimum(rest, inside[:, -1:] * below).clamp_min(0.0)
    token = torch.searchsorted(inside, rest, right=True).clamp_max(BLOCK - 1)
    return block * BLOCK + token


def _blocks(values: Tensor, padding: float) -> Tensor:
    """``(rows, blocks, BLOCK)``."""
    missing = -values.shape[-1] % BLOCK
    padded = pad(values, (0, missing), value=padding) if missing else values  # pad copies in any case
    return padded.view(len(values), -1, BLOCK)


def _of(blocks: Tensor, block: Tensor) -> Tensor:
    """The chosen block ``(rows, 1)`` of each row, ``(rows, BLOCK)``."""
    return blocks.gather(1, block[..., None].expand(-1, 1, BLOCK)).squeeze(1)
