"""Credit per token or turn from the gap between teacher and student, with the reward in charge of the direction.

The *gap* of a sampled token is ``log p(a) - log q(a)``: how much more likely the teacher, who knows what came of it,
finds the action than the student who took it. Everything here is a constant of the policy gradient; the teacher is
never a loss by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hero_pl.errors import ConfigError


@torch.no_grad()
def reweighted_advantages(advantages: Tensor, gap: Tensor, strength: float = 0.5, scale: float = 1.0) -> Tensor:
    """``A (1 + strength * tanh(sign(A) * gap / scale))``: bounded re-weighting (SGCD, arXiv 2606.12634).

    Where the reward was good, tokens that the teacher endorses gain; where it was bad, tokens that it rejects do. The
    factor stays within ``[1 - strength, 1 + strength]``, so no advantage changes its sign.

    Args:
        advantages: ``(N,)`` of each token's trajectory.
        gap: ``(N,)`` in nats; zero where there is no teacher leaves the advantage as it is.
        strength: Largest relative change, in [0, 1).
        scale: Gap, in nats, at which three quarters of it are reached.

    Example:
        >>> reweighted_advantages(torch.tensor([1.0, -1.0, -1.0]), torch.tensor([50.0, 50.0, -50.0]))
        tensor([ 1.5000, -0.5000, -1.5000])
    """
    if not 0.0 <= strength < 1.0 or not scale > 0.0:
        raise ConfigError(
            f"strength={strength}, scale={scale}: strength in [0, 1) keeps the sign of every advantage, and the scale "
            "is a positive number of nats."
        )
    return advantages * (1.0 + strength * torch.tanh(advantages.sign() * gap / scale))


@torch.no_grad()
def gap_magnitudes(advantages: Tensor, gap: Tensor, cap: float = 2.0) -> Tensor:
    """``sign(A) * min(|gap|, cap)``: the reward gives the sign, the teacher the size (RLSD, arXiv 2604.03128).

    Args:
        advantages: ``(N,)`` of each token's trajectory; only the sign counts.
        gap: ``(N,)`` in nats.
        cap: Largest size, in nats.

    Example:
        >>> gap_magnitudes(torch.tensor([0.3, -0.3, 0.0]), torch.tensor([-1.0, 5.0, 1.0]))
        tensor([ 1., -2.,  0.])
    """
    if not cap > 0.0:
        raise ConfigError(f"cap={cap}: the largest size of a credit is a positive number of nats.")
    return advantages.sign() * gap.abs().clamp(max=cap)


@torch.no_grad()
def turn_credits(gap: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``sum_j gap_j`` per turn: how hindsight moves the odds of the whole action (PBSD, arXiv 2606.09348).

    Args:
        gap: ``(N,)`` in nats.
        turn: ``(N,)`` integer turn of each token.

    Returns:
        ``(turns,)`` turn numbers in ascending order, ``(turns,)`` credits, and ``(N,)`` the place of each token's turn
        among them.

    Example:
        >>> turn_credits(torch.tensor([1.0, 2.0, -4.0]), torch.tensor([7, 7, 9]))[1]
        tensor([ 3., -4.])
    """
    numbers, index = torch.unique(turn, return_inverse=True)
    return numbers, gap.new_zeros(numbers.numel()).index_add_(0, index, gap), index
