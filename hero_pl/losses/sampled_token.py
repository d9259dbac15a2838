"""Reverse KL estimated from the one token that was sampled."""

from __future__ import annotations

from torch import Tensor

from hero_pl.errors import ConfigError
from hero_pl.losses.base import DistillationLoss, action_log_probabilities, check_same_shape
from hero_pl.scalars import mean


class SampledToken(DistillationLoss):
    """``stopgrad(log q(a) - log p(a)) * log q(a)``: a surrogate whose gradient estimates that of ``KL(q || p)``.

    The gradient is unbiased when ``a`` was drawn from ``q`` itself: same weights, same temperature, no top-p or top-k
    truncation. The value is not a divergence and can have either sign; watch ``sampled/log_ratio_mean`` instead.

    Args:
        temperature: Divides the logits of both sides; must be the sampling temperature.

    Example:
        >>> import torch
        >>> SampledToken()(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([1])).abs()
        tensor([0.])
    """

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__(temperature=temperature)

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, action_ids: Tensor | None = None) -> Tensor:
        """Surrogate per token.

        Args:
            student_logits: ``(..., vocab)``; gradients flow here.
            teacher_logits: Same shape; treated as a constant.
            action_ids: ``(...)`` ids that were sampled.

        Returns:
            ``(...)``; minimize it, do not read it.

        Raises:
            ConfigError: ``action_ids`` are missing.
        """
        check_same_shape(student_logits, teacher_logits)
        if action_ids is None:
            raise ConfigError("SampledToken needs action_ids: the ids that were sampled, one per row of logits.")
        log_q = action_log_probabilities(student_logits, action_ids, self.temperature)
        log_p = action_log_probabilities(teacher_logits.detach(), action_ids, self.temperature)
        log_ratio = log_q.detach() - log_p
        count = log_ratio.numel()
        self.diagnostics = {"sampled/log_ratio_mean": mean(log_ratio.mean(), count)} if count else {}
        return log_ratio * log_q
