"""The divergence of two sides, summed over tokens, with the values per token.

If the student's scores are hidden states, logits are computed for a few tokens at a time: the output projection, the
divergence and its gradient are computed in parts in the forward pass, and only the gradients with respect to the hidden
states and, if it is trained, the head are kept.

The result is that of ``normalized_sum(coefficients, loss(student logits, teacher logits))``. A full-vocabulary
divergence uses its closed form; any other loss is differentiated by autograd within the part.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hero_pl.errors import TokenAlignmentError
from hero_pl.losses.base import DistillationLoss, action_log_probabilities, log_probabilities
from hero_pl.losses.divergence import VocabularyDivergence
from hero_pl.losses.normalize import normalized_sum
from hero_pl.losses.scores import ProjectionGradient, Scores, at_least_float32, of_ids
from hero_pl.scalars import Scalar, add_up


class SummedDivergence(NamedTuple):
    """Result of :func:`summed_divergence`."""

    loss: Tensor
    """Scalar ``sum(coefficient * per_token)``; gradients flow."""
    per_token: Tensor
    """``(N,)`` divergence per token, detached: for gates, metrics and the viewer."""
    student_log_probs: Tensor
    """``(N,)`` log-probabilities of the sampled ids detached."""
    teacher_log_probs: Tensor
    """The same for the teacher."""


def summed_divergence(
    loss: DistillationLoss, student: Scores, teacher: Scores, coefficients: Tensor, action_ids: Tensor
) -> SummedDivergence:
    """Normalized divergence of both sides.

    Args:
        loss: The divergence. Its ``diagnostics`` cover all tokens afterwards.
        student: Scores of N tokens at the sampling temperature; gradients flow. Its ``at_once`` applies to both sides.
        teacher: Scores of the same tokens at the same temperature; treated as a constant.
        coefficients: ``(N,)`` from ``hero_pl.losses.coefficients``.
        action_ids: ``(N,)`` sampled ids.

    Returns:
        The loss (attached to the graph even for ``N == 0``) and values per token.

    Raises:
        TokenAlignmentError: Both sides do not have the same tokens and vocabulary.
    """
    for name, tensor in (("teacher", teacher.values), ("coefficients", coefficients), ("action_ids", action_ids)):
        if tensor.shape[0] != len(student):
            raise TokenAlignmentError(
                f"The student scores {len(student)} tokens, {name} has {tensor.shape[0]}. "
                "Both sides must score the same sampled ids, one row per id."
            )
    if student.vocabulary != teacher.vocabulary:
        raise TokenAlignmentError(
            f"The student's vocabulary has {student.vocabulary} ids, the teacher's has {teacher.vocabulary}. "
            "Cut or pad both vocabularies to the same size."
        )
    teacher = teacher.detach()
    if student.head is None:
        per_token = loss(student.logits(), teacher.logits(), action_ids)
        of_both = (side.detach().of_actions(action_ids).log_probs for side in (student, teacher))
        return SummedDivergence(normalized_sum(coefficients, per_token), per_token.detach(), *of_both)
    constants = (student.at_once, student.temperature, teacher, coefficients.detach(), action_ids, loss)
    total, *of_tokens = _SummedDivergence.apply(  # type: ignore[no-untyped-call]
        student.values, student.head, *constants
    )
    return SummedDivergence(total, *of_tokens)


class _SummedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        at_once: int,
        temperature: float,
        teacher: Scores,
        coefficients: Tensor,
        action_ids: Tensor,
        loss: DistillationLoss,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        student, wide = Scores(hidden, head, at_once, temperature), at_least_float32(hidden.dtype)
        gradient = ProjectionGradient(hidden, head, *ctx.needs_input_grad[:2])
        values, of_student, of_teacher = hidden.new_zeros(3, len(student), dtype=wide)
        described: list[dict[str, Scalar]] = []
        for part in student.parts():
            values[part], of_logits, of_student[part], of_teacher[part] = _value_and_logit_gradient(
                loss, student.logits(part), teacher.logits(part), coefficients[part] / temperature, action_ids[part]
            )
            described.append(loss.diagnostics)
            gradient.add(part, of_logits)
        loss.diagnostics = add_up(described)
        ctx.save_for_backward(*gradient.result())
        ctx.mark_non_differentiable(values, of_student, of_teacher)
        return (coefficients.to(wide) * values).sum(), values, of_student, of_teacher

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if saved is None else saved * grad_total.to(saved.dtype) for saved in ctx.saved_tensors)
        return *scaled, None, None, None, None, None, None


def _value_and_logit_gradient(
    loss: DistillationLoss, student_logits: Tensor, teacher_logits: Tensor, coefficients: Tensor, action_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values of one part, the gradient of their weighted sum with respect to the student's tempered logits, and what
    both sides give the sampled ids.
    """
    if isinstance(loss, VocabularyDivergence) and loss.support == "full":
        log_q = log_probabilities(student_logits)
        log_p = log_probabilities(teacher_logits)
        value, slope = loss.value_and_slope(log_q, log_p)
        loss.diagnostics = loss.describe(value)
        of_student, of_teacher = of_ids(log_q, action_ids), of_ids(log_p, action_ids)
        q = log_q.exp_()
        gradient = slope.sub_(q.mul_(slope.sum(-1, keepdim=True)))  # d/dz = h - q sum h
        return value, gradient.mul_(coefficients.to(gradient.dtype).unsqueeze(-1)), of_student, of_teacher
    with torch.enable_grad():
        logits = student_logits.detach().requires_grad_()
        value = loss(logits, teacher_logits, action_ids)
        (gradient,) = torch.autograd.grad((coefficients.to(value.dtype) * value).sum(), logits)
    sides = (student_logits, teacher_logits)
    of_student, of_teacher = (action_log_probabilities(side, action_ids) for side in sides)
    return value.detach(), gradient, of_student, of_teacher
