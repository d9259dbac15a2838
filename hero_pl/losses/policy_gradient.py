"""Clipped policy-gradient losses (GRPO and its variants), one value per action token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hero_pl.errors import ConfigError
from hero_pl.scalars import Scalar, largest, mean

Surrogate = Literal["clip", "cispo"]
RatioLevel = Literal["token", "sequence"]
KLEstimator = Literal["k1", "k3"]


class ClippedPolicyGradient(nn.Module):
    """``-min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A)``, plus a penalty on the distance to a reference policy.

    Args:
        epsilon: The ratio is clipped below at ``1 - epsilon``; with ``cispo``, 1.0 means no lower bound.
        epsilon_high: The ratio is clipped above at ``1 + epsilon_high``; ``None`` means ``epsilon``.
        ratio_level: ``token`` takes the ratio of each token; ``sequence`` (GSPO) gives all tokens of a trajectory the
            geometric mean of their ratios, so a trajectory must not be split over micro-batches.
        kl_weight: Weight of the penalty; with 0.0 no reference policy is needed.
        kl_estimator: Estimator of the penalty, see ``kl_to_reference``.
        dual_clip: For a negative advantage the loss is at most ``dual_clip * |A|``: a token that has become much more
            likely has no gradient (dual-clip PPO, arXiv 1912.09729; ``clip_ratio_c`` in verl, with default 3.0;
            ``delta`` in TRL). ``None`` for no bound.
        surrogate: ``clip`` as above; ``cispo`` is ``-stopgrad(clip(r)) A log q``, where every token keeps a gradient,
            with a bounded weight (MiniMax-M1, arXiv 2506.13585, equations 4 and 5).
    """

    def __init__(
        self,
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        ratio_level: RatioLevel = "token",
        kl_weight: float = 0.0,
        kl_estimator: KLEstimator = "k3",
        dual_clip: float | None = None,
        surrogate: Surrogate = "clip",
    ) -> None:
        super().__init__()
        epsilon_high = epsilon if epsilon_high is None else epsilon_high
        if surrogate not in ("clip", "cispo"):
            raise ConfigError(f"ClippedPolicyGradient(surrogate={surrogate!r}): expected clip or cispo.")
        unbounded = surrogate == "cispo" and epsilon == 1.0
        if not ((0.0 <= epsilon < 1.0 or unbounded) and epsilon_high >= 0.0):
            raise ConfigError(
                f"ClippedPolicyGradient(epsilon={epsilon}, epsilon_high={epsilon_high}): the ratio is kept within "
                "[1 - epsilon, 1 + epsilon_high], so epsilon must lie in [0, 1) and epsilon_high must not be negative."
            )
        if dual_clip is not None and not dual_clip > 1.0 + epsilon_high:
            raise ConfigError(
                f"ClippedPolicyGradient(dual_clip={dual_clip}): expected a number above the first bound, "
                f"{1.0 + epsilon_high:g}. 3.0 is a common choice."
            )
        if surrogate == "cispo" and (dual_clip is not None or ratio_level == "sequence"):
            raise ConfigError(
                "ClippedPolicyGradient(surrogate='cispo') already bounds the weight of each token: leave dual_clip "
                "out and set ratio_level to token."
            )
        if ratio_level not in ("token", "sequence"):
            raise ConfigError(f"ClippedPolicyGradient(ratio_level={ratio_level!r}): expected token or sequence.")
        if kl_estimator not in ("k1", "k3"):
            raise ConfigError(f"ClippedPolicyGradient(kl_estimator={kl_estimator!r}): expected k1 or k3.")
        if kl_weight < 0.0:
            raise ConfigError(f"ClippedPolicyGradient(kl_weight={kl_weight}): expected a number that is not negative.")
        self.epsilon = epsilon
        self.epsilon_high = epsilon_high
        self.ratio_level: RatioLevel = ratio_level
        self.kl_weight = kl_weight
        self.kl_estimator: KLEstimator = kl_estimator
        self.dual_clip = dual_clip
        self.surrogate: Surrogate = surrogate
        self.diagnostics: dict[str, Scalar] = {}

    def forward(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        trajectory: Tensor | None = None,
        reference_log_probs: Tensor | None = None,
    ) -> Tensor:
        """Loss per token; pass action tokens only.

        Args:
            log_probs: ``(N,)`` of the sampled ids under the student; gradients flow here.
            old_log_probs: ``(N,)`` under the policy that sampled them; treated as a constant.
            advantages: ``(N,)`` advantage of the token's trajectory; treated as a constant.
            trajectory: ``(N,)`` integer trajectory of each token; required for ``ratio_level="sequence"``.
            reference_log_probs: ``(N,)`` under the reference policy; required if ``kl_weight`` is not 0.

        Returns:
            ``(N,)``. The caller normalizes.

        Raises:
            ConfigError: ``trajectory`` or ``reference_log_probs`` is missing.
        """
        log_ratio = log_probs - old_log_probs.detach()
        if self.ratio_level == "sequence":
            if trajectory is None:
                raise ConfigError("ClippedPolicyGradient(ratio_level='sequence') needs the trajectory of every token.")
            log_ratio = mean_over(log_ratio, trajectory)
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1.0 - self.epsilon, 1.0 + self.epsilon_high)
        advantages = advantages.detach()
        if self.surrogate == "cispo":
            per_token = -clipped.detach() * advantages * log_probs
            self.diagnostics = _ratio_metrics(ratio.detach(), clipped.detach() != ratio.detach())
        else:
            per_token = -torch.minimum(ratio * advantages, clipped * advantages)
            # there is no gradient where the clipped branch is the minimum
            self.diagnostics = _ratio_metrics(ratio.detach(), (clipped * advantages < ratio * advantages).detach())
        if self.dual_clip is not None:
            self.diagnostics |= _share("dual_clip_fraction", (advantages < 0) & (ratio.detach() > self.dual_clip))
            bound = torch.where(advantages < 0, -self.dual_clip * advantages, torch.inf)
            per_token = torch.minimum(per_token, bound)
        if self.kl_weight == 0.0:
            return per_token
        if reference_log_probs is None:
            raise ConfigError(
                f"ClippedPolicyGradient(kl_weight={self.kl_weight}) needs reference_log_probs. "
                "Score the sampled ids with the reference policy, or set kl_weight to 0."
            )
        penalty = kl_to_reference(log_probs, reference_log_probs, self.kl_estimator)
        if penalty.numel():
            self.diagnostics["policy_gradient/kl"] = mean(penalty.detach().mean(), penalty.numel())
        return per_token + self.kl_weight * penalty


def kl_to_reference(log_probs: Tensor, reference_log_probs: Tensor, estimator: KLEstimator = "k3") -> Tensor:
    """Estimate of ``KL(student || reference)`` from each sampled token.

    Args:
        log_probs: ``(N,)`` under the student; gradients flow here.
        reference_log_probs: ``(N,)`` under the reference policy; treated as a constant.
        estimator: ``k1`` is ``log q - log ref``: unbiased as a value, may be negative, and its expected gradient is
            zero, so log it but do not minimize it. ``k3`` is ``exp(d) - d - 1`` with ``d = log ref - log q``; it is
            never negative.
    """
    gap = reference_log_probs.detach() - log_probs
    return -gap if estimator == "k1" else torch.expm1(gap) - gap


def mean_over(values: Tensor, owner: Tensor) -> Tensor:
    """Give every token the mean over the tokens of its owner; gradients flow to all of them.

    Args:
        values: ``(N,)``.
        owner: ``(N,)`` integer number of what each token belongs to, a turn or a trajectory.
    """
    if values.numel() == 0:
        return values
    _, index, count = torch.unique(owner, return_inverse=True, return_counts=True)
    means: Tensor = values.new_zeros(count.numel()).index_add(0, index, values) / count
    return means.index_select(0, index)


def _ratio_metrics(ratio: Tensor, binding: Tensor) -> dict[str, Scalar]:
    count = ratio.numel()
    if not count:
        return {}
    return {
        "policy_gradient/ratio_mean": mean(ratio.mean(), count),
        "policy_gradient/ratio_max": largest(ratio.max()),
        **_share("clip_fraction", binding),
    }


def _share(name: str, where: Tensor) -> dict[str, Scalar]:
    return {f"policy_gradient/{name}": mean(where.float().mean(), where.numel())} if where.numel() else {}
