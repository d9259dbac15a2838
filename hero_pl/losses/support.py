"""Choose the vocabulary entries that a divergence compares: the most probable ones of a side, and a tail bucket."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hero_pl.scalars import Scalar, mean

Support = Literal["full", "student", "teacher", "union"]

_LARGEST_LOG_MASS = -1e-7
"""Upper bound on the log-probability of the support, so that the tail keeps a finite logarithm."""


def reduce_support(
    log_q: Tensor, log_p: Tensor, support: Support, top_k: int, tail: bool
) -> tuple[Tensor, Tensor, dict[str, Scalar]]:
    """Reduce the log-probabilities of both sides to the same few entries.

    The entries are true probabilities, normalized over the whole vocabulary before they are gathered; the choice of
    entries is not differentiated. In a ``union`` an entry chosen by both sides is counted once: its second copy gets
    probability zero on both sides.

    Args:
        log_q: ``(..., vocab)`` student log-probabilities; gradients flow.
        log_p: Same shape, teacher.
        support: ``student``, ``teacher`` or ``union``.
        top_k: Number of entries per side; at most the vocabulary size.
        tail: Add one bucket with the remaining probability; else renormalize over the entries.

    Returns:
        Log-probabilities of both sides over the buckets ``(..., buckets)``, and the mean mass that the entries cover
        on each side (``topk/student_mass``, ``topk/teacher_mass``).
    """
    indices, duplicate = _entries(log_q.detach(), log_p, support, min(top_k, log_q.shape[-1]))
    inside_q = log_q.gather(-1, indices).masked_fill(duplicate, -torch.inf)
    inside_p = log_p.gather(-1, indices).masked_fill(duplicate, -torch.inf)
    mass_q, mass_p = inside_q.logsumexp(-1, keepdim=True), inside_p.logsumexp(-1, keepdim=True)
    metrics = {}
    if mass_q.numel():
        masses = {"topk/student_mass": mass_q.detach(), "topk/teacher_mass": mass_p}
        metrics = {name: mean(mass.exp().mean(), mass.numel()) for name, mass in masses.items()}
    if tail:
        return _with_tail(inside_q, mass_q), _with_tail(inside_p, mass_p), metrics
    return inside_q - mass_q, inside_p - mass_p, metrics


def _entries(log_q: Tensor, log_p: Tensor, support: Support, count: int) -> tuple[Tensor, Tensor]:
    """Indices of the chosen entries, and a mask of second copies, both ``(..., entries)``."""
    if support == "student":
        indices = log_q.topk(count, dim=-1).indices
        return indices, torch.zeros_like(indices, dtype=torch.bool)
    if support == "teacher":
        indices = log_p.topk(count, dim=-1).indices
        return indices, torch.zeros_like(indices, dtype=torch.bool)
    of_student, of_teacher = log_q.topk(count, dim=-1).indices, log_p.topk(count, dim=-1).indices
    chosen = torch.zeros_like(log_q, dtype=torch.bool).scatter_(-1, of_student, True)
    indices = torch.cat([of_student, of_teacher], dim=-1)
    return indices, torch.cat([torch.zeros_like(of_student, dtype=torch.bool), chosen.gather(-1, of_teacher)], dim=-1)


def _with_tail(inside: Tensor, mass: Tensor) -> Tensor:
    """Append ``log(1 - mass)``."""
    return torch.cat([inside, torch.log(-torch.expm1(mass.clamp(max=_LARGEST_LOG_MASS)))], dim=-1)
