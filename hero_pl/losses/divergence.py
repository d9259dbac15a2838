"""Divergences that are a sum over the vocabulary: closed-form value and derivative, support, clipping.

Write ``q`` for the student, ``p`` for the teacher and ``D = sum_v f(q_v, p_v)``. With ``q = softmax(z / s)``,

    dD/dz_v = (h_v - q_v * sum_u h_u) / s        where  h_v = q_v * df/dq_v

and ``h`` (the *slope*) may be shifted by any multiple of ``q`` without changing the result. Every divergence here
states ``f`` and a shift of ``h`` that is exactly zero where ``q_v == p_v`` bit for bit. An empty hint therefore gives a
divergence of exactly zero and a gradient of exactly zero, independent of rounding in autograd.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hero_pl.errors import ConfigError, check_choice
from hero_pl.losses.base import DistillationLoss, check_same_shape, log_probabilities
from hero_pl.losses.support import Support, reduce_support
from hero_pl.scalars import Scalar, largest, mean

ClipMode = Literal["none", "token", "pointwise"]

_EXCLUDED_GAP = 1e4
"""Gap in nats where one side excludes a token (a logit of minus infinity)."""


class VocabularyDivergence(DistillationLoss):
    """A divergence summed over the whole vocabulary or over its most probable part.

    Args:
        support: ``full`` compares all tokens; ``student`` and ``teacher`` compare the ``top_k`` tokens of that side;
            ``union`` those of either side, duplicates merged.
        top_k: Number of tokens per side if ``support`` is not ``full``.
        tail: Add one bucket with the probability of all tokens outside the support. Without it both sides are
            renormalized over the support, and a difference in the probability outside is not measured.
        clip_mode: ``token`` caps the value of a token. ``pointwise`` caps each vocabulary entry before the sum; the
            sum may then be negative, with a gradient away from the teacher.
        clip: The cap, in nats.
    """

    slope_offset: float = 0.0
    """``df/dq - h/q``, the constant by which ``terms`` shifted the slope. Needed once some entries are clipped."""

    def __init__(
        self,
        *,
        support: Support = "full",
        top_k: int = 100,
        tail: bool = True,
        clip_mode: ClipMode = "none",
        clip: float = 0.05,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_choice(name, "support", support, get_args(Support))
        check_choice(name, "clip_mode", clip_mode, get_args(ClipMode))
        if top_k < 1:
            raise ConfigError(f"{name}(top_k={top_k}): expected at least 1. 100 is a common choice.")
        if not (math.isfinite(clip) and clip > 0.0):
            raise ConfigError(
                f"{name}(clip={clip}): expected a positive number of nats. To switch clipping off use clip_mode: none."
            )
        self.support: Support = support
        self.top_k = top_k
        self.tail = tail
        self.clip_mode: ClipMode = clip_mode
        self.clip = clip

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, action_ids: Tensor | None = None) -> Tensor:
        """Divergence per token, in nats. ``action_ids`` are not needed: the value does not depend on them.

        Args:
            student_logits: ``(..., vocab)``; gradients flow here.
            teacher_logits: Same shape; treated as a constant.
            action_ids: Ignored.

        Returns:
            ``(...)``, non-negative unless ``clip_mode`` is ``pointwise``.
        """
        check_same_shape(student_logits, teacher_logits)
        return self.of_log_probs(log_probabilities(student_logits), log_probabilities(teacher_logits.detach()))

    def of_log_probs(self, log_q: Tensor, log_p: Tensor, action_ids: Tensor | None = None) -> Tensor:
        """See :meth:`DistillationLoss.of_log_probs`."""
        diagnostics: dict[str, Scalar] = {}
        if self.support != "full":
            log_q, log_p, diagnostics = reduce_support(log_q, log_p, self.support, self.top_k, self.tail)
        per_token: Tensor = _ClosedForm.apply(log_q, log_p, self)  # type: ignore[no-untyped-call]
        self.diagnostics = diagnostics | self.describe(per_token)
        return per_token

    @abstractmethod
    def terms(self, q: Tensor, p: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """One summand and one slope per vocabulary entry.

        Args:
            q: ``(..., entries)`` student probabilities.
            p: Same shape, teacher probabilities.
            gap: ``log p - log q``; finite, or NaN in a whole row with logits that are NaN.

        Returns:
            The summands ``f(q, p)`` and the slopes ``q * df/dq - slope_offset * q``, which must be exactly zero where
            ``q == p`` and ``gap == 0``.
        """

    @torch.no_grad()
    def value_and_slope(self, log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
        """Value per token after clipping, and its slope (the shifted derivative with respect to ``log_q``).

        Args:
            log_q: ``(..., entries)`` normalized student log-probabilities.
            log_p: Same shape, teacher.

        Returns:
            Values ``(...)`` and slopes ``(..., entries)``. No graph is built.
        """
        gap = (log_p - log_q).nan_to_num_(nan=0.0, posinf=_EXCLUDED_GAP, neginf=-_EXCLUDED_GAP)
        # 0 is right where both sides exclude a token; NaN logits make a whole row NaN, and must not look like agreement
        gap.masked_fill_((log_q[..., :1] + log_p[..., :1]).isnan(), torch.nan)
        q, p = log_q.exp(), log_p.exp()
        summands, slope = self.terms(q, p, gap)
        if self.clip_mode == "pointwise":
            slope = torch.where(summands > self.clip, -self.slope_offset * q, slope)  # NaN stays
            return summands.clamp(max=self.clip).sum(-1), slope
        value = summands.sum(-1).clamp(min=0.0)  # a divergence is non-negative, but its rounding error may not be
        if self.clip_mode == "token":
            slope = slope.masked_fill((value > self.clip).unsqueeze(-1), 0.0)
            value = value.clamp(max=self.clip)
        return value, slope

    @torch.no_grad()
    def describe(self, per_token: Tensor) -> dict[str, Scalar]:
        """Metrics of a set of per-token values: the maximum, and the fraction clipped."""
        if per_token.numel() == 0:
            return {}
        metrics, count = {"loss/max_token": largest(per_token.max())}, per_token.numel()
        if self.clip_mode == "pointwise":
            metrics["clip/negative_fraction"] = mean((per_token < 0).to(per_token.dtype).mean(), count)
        elif self.clip_mode == "token":
            metrics["clip/capped_fraction"] = mean((per_token >= self.clip).to(per_token.dtype).mean(), count)
        return metrics

    def extra_repr(self) -> str:
        """Options shown when the module is printed."""
        return f"support={self.support}, clip_mode={self.clip_mode}"


class _ClosedForm(torch.autograd.Function):
    """Adds ``value_and_slope`` to the autograd graph; the teacher gets no gradient."""

    @staticmethod
    def forward(ctx: Any, log_q: Tensor, log_p: Tensor, divergence: VocabularyDivergence) -> Tensor:
        value, slope = divergence.value_and_slope(log_q, log_p)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grad_value.unsqueeze(-1) * slope, None, None


def mixture_log_ratios(gap: Tensor, teacher_weight: float) -> tuple[Tensor, Tensor]:
    """``log(m/q)`` and ``log(m/p)`` for ``m = (1 - w) q + w p``, computed in log space.

    The smaller of ``q`` and ``p`` is expressed through the larger one, so nothing overflows and both are exactly zero
    where ``gap`` is zero.

    Args:
        gap: ``log p - log q``.
        teacher_weight: ``w``, strictly between 0 and 1.
    """
    weight_of_smaller: Tensor | float = teacher_weight
    if teacher_weight != 0.5:
        # scalar tensors in the dtype of gap: a plain number in torch.where would be rounded to float32
        of_student, of_teacher = gap.new_full((), 1.0 - teacher_weight), gap.new_full((), teacher_weight)
        weight_of_smaller = torch.where(gap > 0, of_student, of_teacher)
    # log(m / max(q, p)) = log1p(w_smaller * expm1(-|gap|)), at most 0; in place, one vocabulary-sized tensor is enough
    below_larger = gap.abs().neg_().expm1_().mul_(weight_of_smaller).log1p_()
    return below_larger + gap.clamp(min=0.0), below_larger - gap.clamp(max=0.0)
