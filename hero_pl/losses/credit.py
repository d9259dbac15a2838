"""Credit per token or turn from the gap between teacher and student; the reward determines its sign.

The *gap* of a sampled token is ``log p(a) - log q(a)``: how much more likely the token is under the teacher, which sees
the hindsight hint, than under the student. All results are constants of the policy gradient; the teacher is never a
loss by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hero_pl.errors import ConfigError

_PRIOR_MARGIN, _STD_EPS = 1e-4, 1e-6
"""Constants of the authors' code: they keep the logit of a success rate of 0 or 1 finite, and the deviation above 0."""


@torch.no_grad()
def reweighted_advantages(advantages: Tensor, gap: Tensor, strength: float = 0.5, scale: float = 1.0) -> Tensor:
    """``A (1 + strength * tanh(sign(A) * gap / scale))``: bounded re-weighting (SGCD, arXiv 2606.12634).

    With a positive advantage, tokens that are more likely under the teacher get more weight; with a negative one,
    tokens that are less likely. The factor stays within ``[1 - strength, 1 + strength]``, so no advantage changes its
    sign.

    Args:
        advantages: ``(N,)`` of each token's trajectory.
        gap: ``(N,)`` in nats; 0 for tokens without a teacher, which keeps their advantage unchanged.
        strength: Largest relative change, in [0, 1).
        scale: Gap, in nats, at which three quarters of the largest change are reached.

    Example:
        >>> reweighted_advantages(torch.tensor([1.0, -1.0, -1.0]), torch.tensor([50.0, 50.0, -50.0]))
        tensor([ 1.5000, -0.5000, -1.5000])
    """
    if not 0.0 <= strength < 1.0 or not scale > 0.0:
        raise ConfigError(
            f"strength={strength}, scale={scale}: expected a strength in [0, 1), which keeps the sign of every "
            "advantage, and a positive scale in nats."
        )
    return advantages * (1.0 + strength * torch.tanh(advantages.sign() * gap / scale))


@torch.no_grad()
def rlsd_advantages(advantages: Tensor, gap: Tensor, strength: float = 0.5, band: float = 0.2) -> Tensor:
    """``A ((1 - strength) + strength * clip(exp(sign(A) * gap), 1 - band, 1 + band))`` (RLSD, arXiv 2604.03128).

    As in the authors' code (``verl/trainer/ppo/rlsd_utils.py`` in the SDAR repository), with their defaults.

    Args:
        advantages: ``(N,)`` of each token's trajectory.
        gap: ``(N,)`` in nats; 0 for tokens without a teacher, which keeps their advantage unchanged.
        strength: Weight of the teacher's factor, in [0, 1]; 0 is the plain policy gradient.
        band: Largest distance of that factor from 1, in [0, 1), so that no advantage changes its sign.

    Example:
        >>> rlsd_advantages(torch.ones(3), torch.tensor([2.0, 0.0, -2.0]))
        tensor([1.1000, 1.0000, 0.9000])
    """
    _check_shares(strength, band)
    factor = (advantages.sign() * gap).exp().clamp(1.0 - band, 1.0 + band)
    return advantages * ((1.0 - strength) + strength * factor)


@torch.no_grad()
def gap_magnitudes(advantages: Tensor, gap: Tensor, cap: float = 2.0) -> Tensor:
    """``sign(A) * min(|gap|, cap)``: sign from the reward, magnitude from the teacher. Not from a paper.

    Args:
        advantages: ``(N,)`` of each token's trajectory; only the sign is used.
        gap: ``(N,)`` in nats.
        cap: Largest magnitude, in nats.

    Example:
        >>> gap_magnitudes(torch.tensor([0.3, -0.3, 0.0]), torch.tensor([-1.0, 5.0, 1.0]))
        tensor([ 1., -2.,  0.])
    """
    if not cap > 0.0:
        raise ConfigError(f"cap={cap}: expected a positive number of nats, the largest magnitude of a credit.")
    return advantages.sign() * gap.abs().clamp(max=cap)


@torch.no_grad()
def turn_credits(gap: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``sum_j gap_j`` per turn: how the hint changes the log-probability of the whole action (PBSD, arXiv 2606.09348).

    Args:
        gap: ``(N,)`` in nats.
        turn: ``(N,)`` integer turn of each token.

    Returns:
        ``(turns,)`` turn numbers in ascending order, ``(turns,)`` credits, and ``(N,)`` the index of each token's turn
        in them.

    Example:
        >>> turn_credits(torch.tensor([1.0, 2.0, -4.0]), torch.tensor([7, 7, 9]))[1]
        tensor([ 3., -4.])
    """
    numbers, index = torch.unique(turn, return_inverse=True)
    return numbers, gap.new_zeros(numbers.numel()).index_add_(0, index, gap), index


@torch.no_grad()
def belief_factors(
    sign: Tensor,
    evidence: Tensor,
    trajectory: Tensor,
    prior: Tensor,
    strength: float = 0.5,
    band: float = 0.2,
    decay: float = 0.95,
) -> Tensor:
    """Factor of each turn's advantage, from the change of the success probability (AgentOPSD, arXiv 2608.05987).

    Along a trajectory ``c_k = decay * c_{k-1} + e_k`` and ``B_k = sigmoid(logit(B_0) + c_k)``. With ``z_k``, the
    change ``B_k - B_{k-1}`` standardized within the trajectory, the factor is
    ``(1 - strength) + strength * clip(1 + band * sign(A) * z_k, 1 - band, 1 + band)``.

    Args:
        sign: ``(turns,)`` sign of the trajectory's advantage, the same for all of its turns.
        evidence: ``(turns,)`` ``e_k``, see :func:`turn_credits`.
        trajectory: ``(turns,)`` integer trajectory of each turn; the turns of a trajectory are in order.
        prior: ``(turns,)`` ``B_0``, the success rate of the trajectory's group.
        strength: Weight of the teacher's factor, in [0, 1].
        band: Largest distance of that factor from 1, in [0, 1).
        decay: Fraction of the evidence that remains after one turn, in (0, 1].

    Returns:
        ``(turns,)``, positive; 1 for the only turn of a trajectory.

    Example:
        >>> trajectory = torch.tensor([0, 0])
        >>> belief_factors(torch.ones(2), torch.tensor([2.0, 0.0]), trajectory, torch.full((2,), 0.5))
        tensor([1.1000, 0.9000])
    """
    _check_shares(strength, band)
    if not 0.0 < decay <= 1.0:
        raise ConfigError(
            f"decay={decay}: expected a fraction in (0, 1], the part of the evidence that remains after one turn."
        )
    factors = torch.ones_like(evidence)
    for one in torch.unique(trajectory):
        mine = (trajectory == one).nonzero().squeeze(-1)
        total, collected = evidence.new_zeros(()), []
        for piece in evidence[mine]:
            total = decay * total + piece
            collected.append(total)
        start = prior[mine[:1]].clamp(_PRIOR_MARGIN, 1.0 - _PRIOR_MARGIN)
        belief = torch.sigmoid(start.logit() + torch.stack(collected)).clamp(_STD_EPS, 1.0 - _STD_EPS)
        revision = torch.cat([start, belief]).diff()
        standardized = (revision - revision.mean()) / (revision.std(unbiased=False) + _STD_EPS)
        clipped = (1.0 + band * sign[mine] * standardized).clamp(1.0 - band, 1.0 + band)
        factors[mine] = (1.0 - strength) + strength * clipped
    return factors


def _check_shares(strength: float, band: float) -> None:
    if not 0.0 <= strength <= 1.0 or not 0.0 <= band < 1.0:
        raise ConfigError(
            f"strength={strength}, band={band}: expected strength in [0, 1] and band in [0, 1), so that no advantage "
            "changes its sign."
        )
