"""Kullback-Leibler divergences between student ``q`` and teacher ``p``, plain and skewed.

*Forward* is ``KL(p || q)``: it raises the student's probability of every token that is likely under the teacher.
*Reverse* is ``KL(q || p)``: it has almost no gradient on tokens that are very unlikely under the student. The skewed
forms (DistiLLM) mix a small part of the first distribution into the second, which bounds them by ``log(1 / alpha)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hero_pl.errors import ConfigError
from hero_pl.losses.divergence import VocabularyDivergence, mixture_log_ratios


class ForwardKL(VocabularyDivergence):
    """``KL(p || q)``: the student learns to cover all tokens of the teacher. Its gradient is ``q - p``.

    Example:
        >>> teacher = torch.tensor([[0.0, -200.0]])
        >>> ForwardKL()(torch.zeros(1, 2), teacher)
        tensor([0.6931])
    """

    slope_offset = -1.0

    def terms(self, q: Tensor, p: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """``f = p log(p/q)``."""
        return p * gap, q - p


class ReverseKL(VocabularyDivergence):
    """``KL(q || p)``: the student learns to avoid tokens that are unlikely under the teacher.

    Example:
        >>> student = torch.tensor([[0.0, -200.0]])
        >>> ReverseKL()(student, torch.zeros(1, 2))
        tensor([0.6931])
    """

    slope_offset = 1.0

    def terms(self, q: Tensor, p: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """``f = q log(q/p)``."""
        summands = -q * gap
        return summands, summands


class SkewForwardKL(VocabularyDivergence):
    """``KL(p || alpha p + (1 - alpha) q)``: forward, but bounded where the student's probability is near 0.

    Args:
        alpha: Weight of the teacher in the second argument, strictly between 0 and 1.
        options: Options of every divergence, see ``VocabularyDivergence``.
    """

    def __init__(self, alpha: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = _checked_alpha(self, alpha)
        self.slope_offset = alpha - 1.0

    def terms(self, q: Tensor, p: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """``f = p log(p/m)``, slope ``(1 - alpha) q (1 - p/m)``."""
        _, m_over_p = mixture_log_ratios(gap, self.alpha)
        return -p * m_over_p, (self.alpha - 1.0) * q * torch.expm1(-m_over_p)


class SkewReverseKL(VocabularyDivergence):
    """``KL(q || (1 - alpha) p + alpha q)``: reverse, but bounded where the teacher's probability is near 0.

    Args:
        alpha: Weight of the student in the second argument, strictly between 0 and 1.
        options: Options of every divergence, see ``VocabularyDivergence``.
    """

    def __init__(self, alpha: float = 0.1, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = _checked_alpha(self, alpha)
        self.slope_offset = 1.0 - alpha

    def terms(self, q: Tensor, p: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """``f = q log(q/m)``, slope ``q (log(q/m) + alpha (1 - q/m))``."""
        m_over_q, _ = mixture_log_ratios(gap, 1.0 - self.alpha)
        return -q * m_over_q, -q * (m_over_q + self.alpha * torch.expm1(-m_over_q))


def _checked_alpha(loss: VocabularyDivergence, alpha: float) -> float:
    if not 0.0 < alpha < 1.0:
        raise ConfigError(
            f"{type(loss).__name__}(alpha={alpha}): alpha must lie strictly between 0 and 1. "
            "For alpha = 0 use ForwardKL or ReverseKL."
        )
    return alpha
