"""Interface of distillation losses, and the log-probabilities that they are computed from.

A loss depends only on logits: no masks, no turns, no trajectories. It gets the logits of the sampled action tokens from
both sides, at the sampling temperature, and returns one number per token, in nats. Selection, weights and normalization
of tokens are outside (see ``hero_pl.losses.normalize``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from hero_pl.errors import TokenAlignmentError
from hero_pl.scalars import Scalar


class DistillationLoss(nn.Module, ABC):
    """Distance of the student from the self-teacher, one value per token.

    Subclass this for a loss that autograd can differentiate by itself; subclass
    ``hero_pl.losses.divergence.VocabularyDivergence`` for a sum over the vocabulary with a known derivative.

    Attributes:
        diagnostics: Metrics of the last call, by their name in the training log; replaced by every call.
    """

    is_divergence = True
    """Whether the value is a distance, 0 where both sides agree, and not only something with the right gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.diagnostics: dict[str, Scalar] = {}

    @abstractmethod
    def forward(self, student_logits: Tensor, teacher_logits: Tensor, action_ids: Tensor | None = None) -> Tensor:
        """Divergence per token, in nats; a constant added to all logits of a token must not change it.

        Args:
            student_logits: ``(..., vocab)`` at the sampling temperature (:func:`at_temperature`); gradients flow here.
            teacher_logits: Same shape and temperature; treated as a constant.
            action_ids: ``(...)`` ids that were sampled; only losses on the sampled token need them.

        Returns:
            ``(...)`` in float32, or in float64 if both sides are float64. The caller masks and averages.

        Raises:
            TokenAlignmentError: The two sides differ in shape.
        """

    def of_log_probs(self, log_q: Tensor, log_p: Tensor, action_ids: Tensor | None = None) -> Tensor:
        """The same from log-probabilities; overridden by losses that need not make them again.

        Args:
            log_q: ``(..., vocab)`` normalized, of the student; gradients flow here.
            log_p: Same shape, of the teacher; a constant.
            action_ids: As in :meth:`forward`.
        """
        found: Tensor = self(log_q, log_p, action_ids)
        return found


def check_same_shape(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Check that both logits can belong to the same tokens.

    Raises:
        TokenAlignmentError: The shapes differ.
    """
    if student_logits.shape != teacher_logits.shape:
        raise TokenAlignmentError(
            f"Student logits have shape {tuple(student_logits.shape)}, teacher logits {tuple(teacher_logits.shape)}. "
            "Both sides must score the same sampled ids over the same vocabulary; "
            "cut or pad both vocabularies to the same size before the loss."
        )


def at_temperature(logits: Tensor, temperature: float) -> Tensor:
    """``logits / temperature`` in at least float32; the logits themselves, in their own precision, at 1."""
    return logits if temperature == 1.0 else _wide(logits) / temperature


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax over the last axis in at least float32.

    bfloat16 and float16 are converted to float32 first: their log-softmax over a large vocabulary is too imprecise.
    """
    return _wide(logits).log_softmax(-1)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def action_log_probabilities(logits: Tensor, action_ids: Tensor) -> Tensor:
    """Log-probability of each sampled id.

    Args:
        logits: ``(..., vocab)``; gradients flow.
        action_ids: ``(...)`` ids.

    Returns:
        ``(...)`` log-probabilities in nats.

    Raises:
        TokenAlignmentError: There is not exactly one id per row of logits.
    """
    return of_ids(log_probabilities(logits), action_ids)


def of_ids(log_probs: Tensor, action_ids: Tensor) -> Tensor:
    """The entries ``(...)`` of ``(..., vocab)`` that belong to the sampled ids.

    Raises:
        TokenAlignmentError: There is not exactly one id per row of logits.
    """
    if log_probs.shape[:-1] != action_ids.shape:
        raise TokenAlignmentError(
            f"Logits have shape {tuple(log_probs.shape)}, action ids {tuple(action_ids.shape)}. "
            "There must be exactly one sampled id per row of logits."
        )
    return log_probs.gather(-1, action_ids.unsqueeze(-1)).squeeze(-1)
