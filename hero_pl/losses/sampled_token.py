"""Losses on the sampled token only: reverse KL, plain and gated."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from hero_pl.errors import ConfigError
from hero_pl.losses.base import DistillationLoss, check_same_shape, log_probabilities, of_ids
from hero_pl.scalars import mean


class _OnSampledToken(DistillationLoss):
    """A loss of what both sides give the sampled ids."""

    is_divergence = False

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
        check_same_shape(student_logits, teacher_logits)
        return self.of_log_probs(log_probabilities(student_logits), log_probabilities(teacher_logits), action_ids)

    def of_log_probs(self, log_q: Tensor, log_p: Tensor, action_ids: Tensor | None = None) -> Tensor:
        """See :meth:`DistillationLoss.of_log_probs`."""
        if action_ids is None:
            raise ConfigError(
                f"{type(self).__name__} needs action_ids: the ids that were sampled, one per row of logits."
            )
        return self.surrogate(of_ids(log_q, action_ids), of_ids(log_p.detach(), action_ids))

    @abstractmethod
    def surrogate(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """The value per token.

        Args:
            log_q: ``(...)`` log-probabilities of the sampled ids under the student; gradients flow.
            log_p: The same under the teacher; constants.
        """


class SampledToken(_OnSampledToken):
    """``stopgrad(log q(a) - log p(a)) * log q(a)``: a surrogate whose gradient estimates that of ``KL(q || p)``.

    The gradient is unbiased if ``a`` was sampled from ``q`` itself: same weights, no top-p or top-k truncation. The
    value is not a divergence and can have either sign; watch ``sampled/log_ratio_mean`` instead.

    Example:
        >>> SampledToken()(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([1])).abs()
        tensor([0.])
    """

    def surrogate(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """See the class."""
        log_ratio = log_q.detach() - log_p
        count = log_ratio.numel()
        self.diagnostics = {"sampled/log_ratio_mean": mean(log_ratio.mean(), count)} if count else {}
        return log_ratio * log_q


class GatedSampledToken(_OnSampledToken):
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

    def surrogate(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """See the class."""
        gap = log_p - log_q
        gate = torch.sigmoid(self.sharpness * gap.detach())
        self.diagnostics = {"sampled/gate_mean": mean(gate.mean(), gate.numel())} if gate.numel() else {}
        return gate * gap
