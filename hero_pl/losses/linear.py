"""Divergence computed from hidden states, with logits for a few tokens at a time.

Logits over a large vocabulary need much more memory than hidden states, and autograd keeps several copies per side.
Here the output projection, the divergence and its gradient are computed in chunks of tokens in the forward pass; only
the gradients with respect to the hidden states and, if it is trained, the head are kept.

The result is that of ``normalized_sum(coefficients, loss(student logits, teacher logits))``, both divided by the
temperature. A full-vocabulary divergence uses its closed form; any other loss is differentiated by autograd within the
chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hero_pl.errors import ConfigError, TokenAlignmentError
from hero_pl.losses.base import DistillationLoss, action_log_probabilities, at_temperature, log_probabilities
from hero_pl.losses.divergence import VocabularyDivergence
from hero_pl.scalars import Scalar, add_up


class LinearDivergence(NamedTuple):
    """Result of ``linear_divergence``."""

    loss: Tensor
    """Scalar ``sum(coefficient * per_token)``; gradients flow."""
    per_token: Tensor
    """``(N,)`` divergence per token, detached: for metrics and the viewer."""
    student_log_probs: Tensor
    """``(N,)`` log-probabilities of the sampled ids, detached; zeros without ``action_ids``."""
    teacher_log_probs: Tensor
    """The same for the teacher."""


def linear_divergence(
    loss: DistillationLoss,
    student_hidden: Tensor,
    student_head_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_head_weight: Tensor,
    coefficients: Tensor,
    chunk: int = 64,
    action_ids: Tensor | None = None,
    temperature: float = 1.0,
) -> LinearDivergence:
    """Normalized divergence of ``hidden @ head_weight.T`` on both sides, in chunks of tokens.

    The head must be a plain matrix, without bias and without a soft cap on the logits.

    Args:
        loss: The divergence. Its ``diagnostics`` cover all chunks afterwards.
        student_hidden: ``(N, d)`` last hidden states at the positions that score action tokens; gradients flow.
        student_head_weight: ``(vocab, d)``; gradients flow if it requires them.
        teacher_hidden: ``(N, d_teacher)``; treated as a constant.
        teacher_head_weight: ``(vocab, d_teacher)``; treated as a constant; may be the student's matrix.
        coefficients: ``(N,)`` from ``hero_pl.losses.coefficients``.
        chunk: Number of tokens whose logits are computed at a time.
        action_ids: ``(N,)`` sampled ids, for losses that need them and for their log-probabilities.
        temperature: Of sampling; divides the logits of both sides.

    Returns:
        The loss (attached to the graph even for ``N == 0``) and values per token.

    Raises:
        TokenAlignmentError: Both sides do not have the same tokens and vocabulary.
        ConfigError: ``chunk`` is not positive.
    """
    if chunk < 1:
        raise ConfigError(f"linear_divergence(chunk={chunk}): expected at least 1 token per chunk.")
    tokens = student_hidden.shape[0]
    per_token = {"teacher_hidden": teacher_hidden, "coefficients": coefficients, "action_ids": action_ids}
    for name, tensor in per_token.items():
        if tensor is not None and tensor.shape[0] != tokens:
            raise TokenAlignmentError(
                f"student_hidden has {tokens} tokens, {name} has {tensor.shape[0]}. "
                "Both sides must score the same sampled ids, one row per id."
            )
    if student_head_weight.shape[0] != teacher_head_weight.shape[0]:
        raise TokenAlignmentError(
            f"The student's head has {student_head_weight.shape[0]} ids, the teacher's "
            f"{teacher_head_weight.shape[0]}. Cut or pad both vocabularies to the same size."
        )
    total, *of_tokens = _LinearDivergence.apply(  # type: ignore[no-untyped-call]
        student_hidden,
        student_head_weight,
        teacher_hidden.detach(),
        teacher_head_weight.detach(),
        coefficients.detach(),
        action_ids,
        loss,
        chunk,
        temperature,
    )
    return LinearDivergence(total, *of_tokens)


class _LinearDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        teacher_hidden: Tensor,
        teacher_head: Tensor,
        coefficients: Tensor,
        action_ids: Tensor | None,
        loss: DistillationLoss,
        chunk: int,
        temperature: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # many small contributions: sum them in at least float32, for any dtype of the head
        grad_head = torch.zeros_like(head, dtype=wide) if ctx.needs_input_grad[1] else None
        values, student, teacher = hidden.new_zeros(3, hidden.shape[0], dtype=wide)
        described: list[dict[str, Scalar]] = []
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            logits, teacher_logits = hidden[part] @ head.T, teacher_hidden[part] @ teacher_head.T
            ids = None if action_ids is None else action_ids[part]
            values[part], grad_logits, *of_ids = _value_and_logit_gradient(
                loss, logits, teacher_logits, coefficients[part], ids, temperature
            )
            if of_ids:
                student[part], teacher[part] = of_ids
            described.append(loss.diagnostics)
            grad_logits = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad_logits @ head
            if grad_head is not None:
                _add_product(grad_head, grad_logits.T, hidden[part])
        loss.diagnostics = add_up(described)
        ctx.save_for_backward(grad_hidden, None if grad_head is None else grad_head.to(head.dtype))
        ctx.mark_non_differentiable(values, student, teacher)
        return (coefficients.to(wide) * values).sum(), values, student, teacher

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if saved is None else saved * grad_total.to(saved.dtype) for saved in ctx.saved_tensors)
        return *scaled, None, None, None, None, None, None, None


def _value_and_logit_gradient(
    loss: DistillationLoss,
    student_logits: Tensor,
    teacher_logits: Tensor,
    coefficients: Tensor,
    action_ids: Tensor | None,
    temperature: float,
) -> tuple[Tensor, ...]:
    """Values of one chunk and the gradient of its weighted sum with respect to the student's (raw) logits.

    With ``action_ids`` also their log-probabilities under student and teacher.
    """
    of_ids: tuple[Tensor, ...] = ()
    teacher_logits = at_temperature(teacher_logits, temperature)
    if isinstance(loss, VocabularyDivergence) and loss.support == "full":
        log_q = log_probabilities(at_temperature(student_logits, temperature))
        log_p = log_probabilities(teacher_logits)
        value, slope = loss.value_and_slope(log_q, log_p)
        loss.diagnostics = loss.describe(value)
        if action_ids is not None:
            of_ids = tuple(side.gather(-1, action_ids.unsqueeze(-1)).squeeze(-1) for side in (log_q, log_p))
        q = log_q.exp_()
        gradient = slope.sub_(q.mul_(slope.sum(-1, keepdim=True)))  # d/dz = (h - q sum h) / s
        return value, gradient.mul_((coefficients / temperature).to(gradient.dtype).unsqueeze(-1)), *of_ids
    with torch.enable_grad():
        logits = student_logits.detach().requires_grad_()
        value = loss(at_temperature(logits, temperature), teacher_logits, action_ids)
        (gradient,) = torch.autograd.grad((coefficients.to(value.dtype) * value).sum(), logits)
    if action_ids is not None:
        sides = (at_temperature(student_logits, temperature), teacher_logits)
        of_ids = tuple(action_log_probabilities(side, action_ids) for side in sides)
    return value.detach(), gradient, *of_ids


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, in place where the dtypes allow it."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
