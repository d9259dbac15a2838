"""Compute advantages from rewards: one number per trajectory, relative to the group of its task.

A *group* holds the trajectories of one task that were sampled together. Group ids may be in any order and need not be
contiguous. Estimators that compare within a group give exactly zero to a group whose rewards are equal; this includes
every group of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from hero_pl.errors import ConfigError

EQUAL_REWARDS = 1e-8
"""Rewards of one group that differ by at most this count as equal: the difference is rounding error."""

BaselineKind = Literal["none", "batch", "running"]


def grpo_advantages(rewards: Tensor, groups: Tensor, eps: float = 1e-4, ddof: int = 1) -> Tensor:
    """``(R - mean) / (std + eps)`` within each group.

    Args:
        rewards: ``(trajectories,)``.
        groups: ``(trajectories,)`` integer group ids.
        eps: Added to the standard deviation.
        ddof: 1 divides the squared deviations by the group size minus one, 0 by the group size.

    Returns:
        ``(trajectories,)``, zero in groups of one and in groups without spread.

    Example:
        >>> grpo_advantages(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0, 0, 1]), eps=0.0)
        tensor([-0.7071,  0.7071,  0.0000])
    """
    group = _Groups(rewards, groups)
    deviation = group.deviation()
    variance = group.total(deviation**2) / (group.size - ddof).clamp(min=1)
    return deviation / (variance.sqrt() + eps).masked_fill(group.without_spread, 1.0)[group.index]


def dr_grpo_advantages(rewards: Tensor, groups: Tensor) -> Tensor:
    """``R - mean`` within each group, without division by the spread."""
    return _Groups(rewards, groups).deviation()


def rloo_advantages(rewards: Tensor, groups: Tensor) -> Tensor:
    """``R`` minus the mean of the *other* trajectories of the group."""
    group = _Groups(rewards, groups)
    # R - (sum - R) / (G - 1) = (R - mean) G / (G - 1)
    return group.deviation() * (group.size / (group.size - 1).clamp(min=1))[group.index]


def maxrl_advantages(rewards: Tensor, groups: Tensor) -> Tensor:
    """``(R - mean) / mean`` within each group: rarely solved tasks get more weight. Zero where the mean is zero."""
    group = _Groups(rewards, groups)
    mean = group.mean.masked_fill(group.mean.abs() <= EQUAL_REWARDS, torch.inf)
    return group.deviation() / mean[group.index]


def without_spread(rewards: Tensor, groups: Tensor) -> Tensor:
    """``(trajectories,)`` bool: the rewards of the trajectory's group do not differ. True for groups of one."""
    group = _Groups(rewards, groups)
    return group.without_spread[group.index]


def soft_overlong_penalty(lengths: Tensor, longest: int, buffer: int) -> Tensor:
    """DAPO's penalty on trajectories close to the length limit, to be added to the reward.

    Zero up to ``longest - buffer`` tokens, then linear to -1 at ``longest``, and -1 beyond.

    Args:
        lengths: ``(trajectories,)`` number of action tokens of each.
        longest: Number of tokens at which the penalty reaches -1.
        buffer: Number of tokens before that over which it grows; at least 1.

    Example:
        >>> soft_overlong_penalty(torch.tensor([80, 90, 95, 200]), longest=100, buffer=20)
        tensor([ 0.0000, -0.5000, -0.7500, -1.0000])
    """
    return (((longest - buffer) - lengths.float()) / buffer).clamp(-1.0, 0.0)


def frac_zero_std(rewards: Tensor, groups: Tensor) -> float:
    """Fraction of groups whose rewards are equal; at 1.0 no group-wise estimator can learn anything.

    Groups of one count as equal. An empty batch gives 0.0.
    """
    group = _Groups(rewards, groups)
    return float(group.without_spread.double().mean()) if group.size.numel() else 0.0


class ReinforceBaseline:
    """``A = R - b`` without groups: the policy-gradient estimator that works with one trajectory per task.

    Args:
        kind: ``none`` subtracts nothing, ``batch`` the mean reward of the batch, ``running`` the running mean of
            *earlier* batches (so that the baseline does not depend on the rewards it is subtracted from).
        decay: Weight of the past in the running mean, in [0, 1).

    Example:
        >>> baseline = ReinforceBaseline("running", decay=0.5)
        >>> baseline.advantages(torch.tensor([1.0, 0.0]))
        tensor([1., 0.])
        >>> baseline.advantages(torch.tensor([1.0, 0.0]))
        tensor([ 0.5000, -0.5000])
    """

    def __init__(self, kind: BaselineKind = "none", decay: float = 0.95) -> None:
        if kind not in ("none", "batch", "running"):
            raise ConfigError(f"ReinforceBaseline(kind={kind!r}): expected one of none, batch, running.")
        if not 0.0 <= decay < 1.0:
            raise ConfigError(
                f"ReinforceBaseline(decay={decay}): expected a weight of the past in [0, 1). 0.95 is a common choice."
            )
        self.kind: BaselineKind = kind
        self.decay = decay
        self._sum = 0.0  # sum over past batches of decay^age * mean reward ...
        self._weight = 0.0  # ... and of decay^age, to correct the bias of the first batches toward zero

    @property
    def running_mean(self) -> float:
        """Running mean of the batch means so far; 0.0 before the first batch."""
        return self._sum / self._weight if self._weight else 0.0

    def advantages(self, rewards: Tensor, reduce_sum: Callable[[Tensor], Tensor] = lambda local: local) -> Tensor:
        """Advantages ``(trajectories,)`` of one batch; updates the running mean afterwards.

        Args:
            rewards: ``(trajectories,)`` of this rank.
            reduce_sum: Sums over ranks, so that all subtract the same value; called once unless the kind is ``none``.
        """
        rewards = _real(rewards)
        if self.kind == "none":
            return rewards.clone()
        local = torch.stack([rewards.sum(), rewards.new_tensor(float(rewards.numel()))])
        total, count = (float(value) for value in reduce_sum(local))
        if not count:
            return rewards.clone()
        mean = total / count
        if self.kind == "batch":
            return rewards - mean
        baseline = self.running_mean
        self._sum = self.decay * self._sum + mean
        self._weight = self.decay * self._weight + 1.0
        return rewards - baseline

    def state_dict(self) -> dict[str, float]:
        """State for a checkpoint."""
        return {"sum": self._sum, "weight": self._weight}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore the state from a checkpoint."""
        self._sum, self._weight = float(state["sum"]), float(state["weight"])


class _Groups:
    """Sizes, means and spread of the groups of one batch."""

    def __init__(self, rewards: Tensor, groups: Tensor) -> None:
        if rewards.ndim != 1 or rewards.shape != groups.shape:
            raise ConfigError(
                f"Rewards {tuple(rewards.shape)} and groups {tuple(groups.shape)}: expected flat tensors of equal "
                "length, with one entry per trajectory."
            )
        self.rewards = _real(rewards)
        ids, self.index = torch.unique(groups, return_inverse=True)
        self._groups = ids.numel()
        self.size = self.total(torch.ones_like(self.rewards))
        self.mean = self.total(self.rewards) / self.size
        highest = self._extreme("amax", -math.inf)
        self.without_spread = highest - self._extreme("amin", math.inf) <= EQUAL_REWARDS

    def total(self, values: Tensor) -> Tensor:
        """Sum over each group."""
        return values.new_zeros(self._groups).index_add_(0, self.index, values)

    def deviation(self) -> Tensor:
        """``R - mean`` per trajectory, exactly zero where the group has no spread."""
        return (self.rewards - self.mean[self.index]).masked_fill(self.without_spread[self.index], 0.0)

    def _extreme(self, reduce: Literal["amax", "amin"], start: float) -> Tensor:
        return self.rewards.new_full((self._groups,), start).scatter_reduce_(0, self.index, self.rewards, reduce)


def _real(rewards: Tensor) -> Tensor:
    rewards = rewards.detach()
    return rewards if rewards.dtype == torch.float64 else rewards.float()
