"""Off-policy corrections for rollouts sampled with older weights: a detached factor per token.

``rho = exp(log q(a) - log mu(a))`` compares the student with the policy version ``mu`` that sampled the token. A
divergence over the whole vocabulary does not depend on the token that was sampled at its position, so multiplying it
by that token's ``rho`` only adds variance: use ``NoCorrection`` or ``SequenceMask`` there. ``SampledToken`` needs
``TruncatedRatio``.

A factor of zero removes a token's loss but not the token: it still counts in the denominators, which are computed
before the student is scored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from hero_pl.errors import ConfigError
from hero_pl.losses.policy_gradient import mean_over
from hero_pl.scalars import Scalar, largest, mean

LOG_RATIO_CLAMP = 20.0
"""Largest absolute log-ratio, in nats, before it is exponentiated."""


def importance_ratio(log_probs: Tensor, rollout_log_probs: Tensor, clamp: float = LOG_RATIO_CLAMP) -> Tensor:
    """``rho`` per token, detached.

    Args:
        log_probs: ``(N,)`` of the sampled ids under the student.
        rollout_log_probs: ``(N,)`` as recorded when they were sampled.
        clamp: Bound on the absolute log-ratio, in nats.
    """
    return (log_probs - rollout_log_probs).detach().clamp(-clamp, clamp).exp()


def mismatch(log_probs: Tensor, rollout_log_probs: Tensor) -> dict[str, Scalar]:
    """Difference between recomputed and recorded log-probabilities; at step 0 they should agree.

    A sudden increase means old weights, another temperature, other ids or another template. It shows long before the
    reward changes.

    Returns:
        Mean and largest absolute difference and ``mean(rho - log rho - 1)``, which estimates a KL divergence. Empty
        when there are no tokens.
    """
    difference = (log_probs - rollout_log_probs).detach()
    count = difference.numel()
    if not count:
        return {}
    clamped = difference.clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP)
    return {
        "mismatch/abs_mean": mean(difference.abs().mean(), count),
        "mismatch/abs_max": largest(difference.abs().max()),
        "mismatch/kl": mean((torch.expm1(clamped) - clamped).mean(), count),
    }


class ImportanceCorrection(nn.Module, ABC):
    """Factor per token that corrects for rollouts from an older policy."""

    by_token: bool = False
    """The factor of a token depends on that token alone, so that a call may have some tokens of a trajectory only.
    Otherwise the student's tokens are projected once more."""

    @abstractmethod
    def forward(self, log_probs: Tensor, rollout_log_probs: Tensor, trajectory: Tensor) -> Tensor:
        """Factor by which each token's loss is multiplied.

        Args:
            log_probs: ``(N,)`` of the sampled ids under the student; used as a constant.
            rollout_log_probs: ``(N,)`` as recorded when they were sampled.
            trajectory: ``(N,)`` integer trajectory of each token; a correction per trajectory needs all of its tokens
                in one call.

        Returns:
            ``(N,)``, non-negative and detached.
        """


class NoCorrection(ImportanceCorrection):
    """No correction: for rollouts from the current weights."""

    by_token = True

    def forward(self, log_probs: Tensor, rollout_log_probs: Tensor, trajectory: Tensor) -> Tensor:
        """All ones."""
        return torch.ones_like(log_probs.detach())


class TruncatedRatio(ImportanceCorrection):
    """``min(rho, cap)`` per token.

    Args:
        cap: Largest factor; ``None`` for no cap.
        log_ratio_clamp: Bound on the absolute log-ratio, in nats.
    """

    by_token = True

    def __init__(self, cap: float | None = 2.0, log_ratio_clamp: float = LOG_RATIO_CLAMP) -> None:
        super().__init__()
        if cap is not None and not cap > 0.0:
            raise ConfigError(f"TruncatedRatio(cap={cap}): expected a positive number. 2.0 is a common choice.")
        if not log_ratio_clamp > 0.0:
            raise ConfigError(f"TruncatedRatio(log_ratio_clamp={log_ratio_clamp}): expected a positive number of nats.")
        self.cap = cap
        self.log_ratio_clamp = log_ratio_clamp

    def forward(self, log_probs: Tensor, rollout_log_probs: Tensor, trajectory: Tensor) -> Tensor:
        """``min(rho, cap)``."""
        ratio = importance_ratio(log_probs, rollout_log_probs, self.log_ratio_clamp)
        return ratio if self.cap is None else ratio.clamp(max=self.cap)


class TokenMask(ImportanceCorrection):
    """Drop tokens whose ratio lies outside an interval.

    Args:
        low: Smallest ratio that is kept.
        high: Largest ratio that is kept.
    """

    by_token = True

    def __init__(self, low: float = 0.5, high: float = 2.0) -> None:
        super().__init__()
        self.low, self.high = _checked_interval(self, low, high)

    def forward(self, log_probs: Tensor, rollout_log_probs: Tensor, trajectory: Tensor) -> Tensor:
        """1 inside the interval, 0 outside."""
        ratio = importance_ratio(log_probs, rollout_log_probs)
        return ((ratio >= self.low) & (ratio <= self.high)).to(ratio.dtype)


class SequenceMask(ImportanceCorrection):
    """Drop trajectories whose geometric mean of ratios lies outside an interval.

    Args:
        low: Smallest geometric mean that is kept.
        high: Largest geometric mean that is kept.
    """

    def __init__(self, low: float = 0.99, high: float = 1.01) -> None:
        super().__init__()
        self.low, self.high = _checked_interval(self, low, high)

    def forward(self, log_probs: Tensor, rollout_log_probs: Tensor, trajectory: Tensor) -> Tensor:
        """1 for all tokens of a kept trajectory, 0 for all others."""
        log_ratio = (log_probs - rollout_log_probs).detach()
        mean = mean_over(log_ratio, trajectory).clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP).exp()
        return ((mean >= self.low) & (mean <= self.high)).to(mean.dtype)


class SequenceRatioMask(ImportanceCorrection):
    """Drop trajectories whose *product* of ratios exceeds a cap: they have become much more likely since sampling.

    Args:
        cap: Largest product that is kept.
    """

    def __init__(self, cap: float = 3.0) -> None:
        super().__init__()
        if not cap > 0.0:
            raise ConfigError(f"SequenceRatioMask(cap={cap}): expected a positive number. 3.0 is a common choice.")
        self.cap = cap

    def forward(self, log_probs: Tensor, rollout_log_probs: Tensor, trajectory: Tensor) -> Tensor:
        """1 for all tokens of a kept trajectory, 0 for all others."""
        log_ratio = (log_probs - rollout_log_probs).detach()
        if log_ratio.numel() == 0:
            return log_ratio
        _, index = torch.unique(trajectory, return_inverse=True)
        total = torch.zeros_like(log_ratio).index_add_(0, index, log_ratio)[index]
        return (total.clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP).exp() <= self.cap).to(log_ratio.dtype)


class DropFallen(ImportanceCorrection):
    """Drop tokens whose probability has decreased by more than a threshold since they were sampled.

    Args:
        threshold: Largest decrease in probability that is kept, in (0, 1].
    """

    by_token = True

    def __init__(self, threshold: float = 0.2) -> None:
        super().__init__()
        if not 0.0 < threshold <= 1.0:
            raise ConfigError(f"DropFallen(threshold={threshold}): expected a difference of probabilities in (0, 1].")
        self.threshold = threshold

    def forward(self, log_probs: Tensor, rollout_log_probs: Tensor, trajectory: Tensor) -> Tensor:
        """1 where the probability decreased by at most the threshold, 0 elsewhere."""
        fall = rollout_log_probs.detach().exp() - log_probs.detach().exp()
        return (fall <= self.threshold).to(fall.dtype)


def _checked_interval(correction: ImportanceCorrection, low: float, high: float) -> tuple[float, float]:
    if not 0.0 <= low <= 1.0 <= high:
        raise ConfigError(
            f"{type(correction).__name__}(low={low}, high={high}): expected an interval that contains 1, the ratio of "
            "a rollout from the current weights."
        )
    return low, high
