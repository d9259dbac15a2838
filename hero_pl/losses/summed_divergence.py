"""The divergence of two sides, summed over tokens, with the values per token.

If the student's scores are hidden states, logits are computed for a few tokens at a time: the output projection, the
divergence and its gradient are computed in parts in the forward pass, and only the gradients with respect to the hidden
states and, if it is trained, the head are kept. The log-probabilities of a part are made once for everything: the
divergence, the sampled ids, gates and corrections.

The result is that of ``normalized_sum(coefficients, loss(student logits, teacher logits))``. A full-vocabulary
divergence uses its closed form; any other loss is differentiated by autograd within the part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hero_pl.errors import TokenAlignmentError
from hero_pl.losses.base import DistillationLoss, log_probabilities, of_ids
from hero_pl.losses.divergence import VocabularyDivergence
from hero_pl.losses.normalize import normalized_sum
from hero_pl.losses.scores import ProjectionGradient, Scores, at_least_float32
from hero_pl.scalars import Scalar, add_up

IN_CACHE = 1 << 18
"""Entries of the vocabulary, times tokens, that are compared together on a CPU."""


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


class Weighing(Protocol):
    """Weights of tokens that depend on their scores: gates and corrections."""

    @property
    def by_token(self) -> bool:
        """Whether the weight of a token depends on that token only; it is then computed while the token's logits exist.

        Otherwise all tokens are projected once more, before their gradient.
        """

    def weigh(self, student: Scores, teacher: Scores, divergence: Callable[[], Tensor], part: slice) -> Tensor:
        """Weights ``(tokens of part,)``, detached.

        Args:
            student: Scores of the tokens of ``part``, as constants.
            teacher: The same for the teacher.
            divergence: Returns their divergence, ``(tokens of part,)``.
            part: Which tokens; all of them unless ``by_token``.
        """


def summed_divergence(
    loss: DistillationLoss,
    student: Scores,
    teacher: Scores,
    coefficients: Tensor,
    action_ids: Tensor,
    weighing: Weighing | None = None,
) -> SummedDivergence:
    """Normalized divergence of both sides.

    Args:
        loss: The divergence. Its ``diagnostics`` cover all tokens afterwards.
        student: Scores of N tokens at the sampling temperature; gradients flow. Its ``at_once`` applies to both sides.
        teacher: Scores of the same tokens at the teacher's temperature; treated as a constant.
        coefficients: ``(N,)`` from ``hero_pl.losses.coefficients``.
        action_ids: ``(N,)`` sampled ids.
        weighing: Multiplies the coefficients.

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
    teacher, coefficients = teacher.detach(), coefficients.detach()
    if student.head is None:
        log_q, log_p = student.log_probs(), teacher.log_probs()
        per_token = loss.of_log_probs(log_q, log_p, action_ids)
        of_both = [of_ids(side.detach(), action_ids) for side in (log_q, log_p)]
        values = per_token.detach()
        if weighing is not None:
            q, p = (Scores(side.detach(), normalized=True) for side in (log_q, log_p))
            coefficients = coefficients * weighing.weigh(q, p, lambda: values, slice(None))
        return SummedDivergence(normalized_sum(coefficients, per_token), values, *of_both)
    if weighing is not None and not weighing.by_token and 0 < student.at_once < len(student):
        constant = student.detach()
        coefficients = coefficients * weighing.weigh(
            constant, teacher, lambda: _values(loss, constant, teacher, action_ids), slice(None)
        )
        weighing = None
    constants = (student.at_once, student.temperature, teacher, coefficients, action_ids, loss, weighing)
    total, *of_tokens = _SummedDivergence.apply(  # type: ignore[no-untyped-call]
        student.values, student.head, *constants
    )
    return SummedDivergence(total, *of_tokens)


def _values(loss: DistillationLoss, student: Scores, teacher: Scores, action_ids: Tensor) -> Tensor:
    """The divergence of all tokens, in parts."""
    found = [
        _value_and_slope(loss, student.log_probs(part), teacher.log_probs(part), action_ids[part])[0]
        for part in student.parts()
    ]
    return torch.cat(found)


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
        weighing: Weighing | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        student, wide = Scores(hidden, head, at_once, temperature), at_least_float32(hidden.dtype)
        gradient = ProjectionGradient(hidden, head, *ctx.needs_input_grad[:2])
        total, values, of_student, of_teacher = hidden.new_zeros(4, len(student), dtype=wide)
        described: list[dict[str, Scalar]] = []
        rooms = student.room(), replace(teacher, at_once=at_once).room()
        for part in student.parts():
            logits, of_other = student.logits(part, rooms[0]), teacher.logits(part, rooms[1])
            # takes the place of the logits, unless autocast made these less precise than the hidden states
            of_logits = logits if logits.dtype == hidden.dtype else torch.empty_like(logits, dtype=hidden.dtype)
            for rows, inside in _blocks(part, logits, loss, weighing):
                log_q, log_p = log_probabilities(logits[inside]), log_probabilities(of_other[inside])
                ids = action_ids[rows]
                value, slope = _value_and_slope(loss, log_q, log_p, ids)
                values[rows], of_student[rows], of_teacher[rows] = value, of_ids(log_q, ids), of_ids(log_p, ids)
                weight = coefficients[rows].to(wide)
                if weighing is not None:
                    q, p = Scores(log_q, normalized=True), Scores(log_p, normalized=True)
                    weight = weight * weighing.weigh(q, p, partial(torch.clone, value), rows)
                total[rows] = weight * value
                # d/dz = (h - q sum h) / temperature
                slope = slope.sub_(log_q.exp_().mul_(slope.sum(-1, keepdim=True)))
                of_logits[inside] = slope.mul_((weight / temperature).to(slope.dtype).unsqueeze(-1))
            described.append(_described(loss, values[part]))
            gradient.add(part, of_logits)
        loss.diagnostics = add_up(described)
        ctx.save_for_backward(*gradient.result())
        ctx.mark_non_differentiable(values, of_student, of_teacher)
        return total.sum(), values, of_student, of_teacher

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if saved is None else saved * grad_total.to(saved.dtype) for saved in ctx.saved_tensors)
        return *scaled, *(None,) * 7


def _closed_form(loss: DistillationLoss) -> VocabularyDivergence | None:
    """The divergence, if its derivative is known and it compares the full vocabulary."""
    return loss if isinstance(loss, VocabularyDivergence) and loss.support == "full" else None


def _blocks(
    part: slice, logits: Tensor, loss: DistillationLoss, weighing: Weighing | None
) -> Iterator[tuple[slice, slice]]:
    """Tokens of a part that are compared together, and their place in the part.

    On a CPU a block of a closed form fits into the cache: the tensors of a comparison are then not written to memory.
    Weights that need all tokens get the part, which is then all of them, in one block.
    """
    count = len(logits)
    in_cache = logits.device.type == "cpu" and _closed_form(loss) is not None
    in_cache = in_cache and (weighing is None or weighing.by_token)
    size = max(IN_CACHE // logits.shape[-1], 1) if in_cache else max(count, 1)
    for start in range(0, count, size):
        end = min(start + size, count)
        yield slice(part.start + start, part.start + end), slice(start, end)


def _value_and_slope(loss: DistillationLoss, log_q: Tensor, log_p: Tensor, action_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Values of one part, and their derivative with respect to the student's log-probabilities."""
    if (known := _closed_form(loss)) is not None:
        return known.value_and_slope(log_q, log_p)
    with torch.enable_grad():
        leaf = log_q.detach().requires_grad_()
        value = loss.of_log_probs(leaf, log_p, action_ids)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope.contiguous()  # not an expanded view


def _described(loss: DistillationLoss, values: Tensor) -> dict[str, Scalar]:
    """Metrics of a part with these values."""
    known = _closed_form(loss)
    return loss.diagnostics if known is None else known.describe(values)
