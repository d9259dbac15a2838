"""Losses on the sampled token only: reverse KL, plain and gated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hero_pl.errors import ConfigError
from hero_pl.losses.base import DistillationLoss, action_log_probabilities, check_same_shape
from hero_pl.scalars import mean


class SampledToken(DistillationLoss):
    """``stopgrad(log q(a) - log p(a)) * log q(a)``: a surrogate whose gradient estimates that of ``KL(q || p)``.

    The gradient is unbiased if ``a`` was sampled from ``q`` itself: same weights, no top-p or top-k truncation. The
    value is not a divergence and can have either sign; watch ``sampled/log_ratio_mean`` instead.

    Example:
        >>> SampledToken()(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([1])).abs()
        tensor([0.])
    """

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, action_ids: Tensor | None = None) -> Tensor:
        """Surrogate per token.

        Args:
            student_logits: ``(..., vocab)``; gradients flow here.
            teacher_logits: Same shape; treated as a constant.
            action_ids: ``(...)`` ids that were sampled.

        Returns:
            ``(...)``. Only its gradient is meaningful, not its value.

        Raises:
            ConfigError: ``action_ids`` are missing.
        """
        log_q, log_p = _of_sampled(self, student_logits, teacher_logits, action_ids)
        log_ratio = log_q.detach() - log_p
        count = log_ratio.numel()
        self.diagnostics = {"sampled/log_ratio_mean": mean(log_ratio.mean(), count)} if count else {}
        return log_ratio * log_q


class GatedSampledToken(DistillationLoss):
    """``stopgrad(sigmoid(k (log p(a) - log q(a)))) * (log p(a) - log q(a))``, the auxiliary loss of SDAR.

    Its gradient is ``-gate * grad log q(a)``: it only raises the probability of sampled tokens, and more so if they are
    more likely under the teacher. To be added to a policy gradient (arXiv 2605.15155;
    ``verl/trainer/ppo/sdar_utils.py`` in the authors' repository). The value is not a divergence and can have either
    sign.

    Args:
        sharpness: ``k``, per nat; 5.0 in the paper.

    Example:
        >>> GatedSampledToken()(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        tensor([0.3304])
    """

    def __init__(self, sharpness: float = 5.0) -> None:
        super().__init__()
        if not (math.isfinite(sharpness) and sharpness > 0.0):
            raise ConfigError(f"GatedSampledToken(sharpness={sharpness}): expected a positive number, per nat.")
        self.sharpness = sharpness

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, action_ids: Tensor | None = None) -> Tensor:
        """Surrogate per token.

        Args:
            student_logits: ``(..., vocab)``; gradients flow here.
            teacher_logits: Same shape; treated as a constant.
            action_ids: ``(...)`` ids that were sampled.

        Returns:
            ``(...)``. Only its gradient is meaningful, not its value.

        Raises:
            ConfigError: ``action_ids`` are missing.
        """
        log_q, log_p = _of_sampled(self, student_logits, teacher_logits, action_ids)
        gap = log_p - log_q
        gate = torch.sigmoid(self.sharpness * gap.detach())
        self.diagnostics = {"sampled/gate_mean": mean(gate.mean(), gate.numel())} if gate.numel() else {}
        return gate * gap


def _of_sampled(
    loss: DistillationLoss, student_logits: Tensor, teacher_logits: Tensor, action_ids: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the sampled ids under the student, with gradient, and under the teacher."""
    check_same_shape(student_logits, teacher_logits)
    if action_ids is None:
        raise ConfigError(f"{type(loss).__name__} needs action_ids: the ids that were sampled, one per row of logits.")
    log_q = action_log_probabilities(student_logits, action_ids)
    return log_q, action_log_probabilities(teacher_logits.detach(), action_ids)
