"""Jensen-Shannon divergence between the student and the self-teacher."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hero_pl.errors import ConfigError
from hero_pl.losses.divergence import VocabularyDivergence, mixture_log_ratios


class JensenShannon(VocabularyDivergence):
    """``(1 - beta) KL(q || m) + beta KL(p || m)`` with ``m = (1 - beta) q + beta p``.

    Symmetric for ``beta`` 0.5, and never above ln 2, so it needs no clipping. Near the teacher it is
    ``beta (1 - beta)`` times a KL divergence: at the same learning rate, ``beta = 0.5`` makes the steps four times
    smaller than a KL divergence, and near the end points they vanish. ``rescale`` removes that factor.

    Args:
        beta: Weight of the teacher in the mixture, strictly between 0 and 1.
        rescale: Divide by ``beta (1 - beta)``, for sweeps over ``beta`` at equal step size.
        options: Options of every divergence, see ``VocabularyDivergence``.

    Example:
        >>> import torch
        >>> loss = JensenShannon()
        >>> uniform = torch.zeros(1, 3, 4)
        >>> loss(uniform, uniform)
        tensor([[0., 0., 0.]])
    """

    def __init__(self, beta: float = 0.5, rescale: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if not 0.0 < beta < 1.0:
            raise ConfigError(
                f"JensenShannon(beta={beta}): beta must lie strictly between 0 and 1. "
                "For the end points use ForwardKL (beta -> 0) or ReverseKL (beta -> 1)."
            )
        self.beta = beta
        self.rescale = rescale

    def terms(self, q: Tensor, p: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """``f = (1 - beta) q log(q/m) + beta p log(p/m)``, slope ``(1 - beta) q log(q/m)``."""
        scale = 1.0 / (self.beta * (1.0 - self.beta)) if self.rescale else 1.0
        m_over_q, m_over_p = mixture_log_ratios(gap, self.beta)
        from_student = m_over_q.mul_(q).mul_(scale * (self.beta - 1.0))
        return from_student - m_over_p.mul_(p).mul_(scale * self.beta), from_student
