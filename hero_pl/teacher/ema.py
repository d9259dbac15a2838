"""Exponential moving average and trust region of teacher weights.

``update_rate`` and ``mix`` are always the weight of the *student*: 0 does not change the teacher, 1 makes it a copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from hero_pl.errors import ConfigError
from hero_pl.losses.base import check_same_shape, log_probabilities


@torch.no_grad()
def ema_update_(teacher: Iterable[Tensor], student: Iterable[Tensor], update_rate: float) -> None:
    """``teacher <- (1 - update_rate) teacher + update_rate student``, in place.

    Args:
        teacher: Tensors of the average, float32 or float64: at a small rate a bfloat16 average never moves, since
            each step is smaller than half of its spacing. Tensors that hold no floats (counters) are copied.
        student: Tensors of the same shapes in the same order, in any precision.
        update_rate: Weight of the student, in [0, 1].

    Raises:
        ConfigError: The rate is outside [0, 1], the average is kept in low precision, or the tensors do not match.

    Example:
        >>> average = torch.tensor([1.0])
        >>> ema_update_([average], [torch.tensor([2.0])], update_rate=0.25)
        >>> average
        tensor([1.2500])
    """
    _check_rate("update_rate", update_rate)
    pairs = _paired(teacher, student)
    for average, live in pairs:
        if average.is_floating_point():
            average.lerp_(live.to(device=average.device, dtype=average.dtype), update_rate)
        else:
            average.copy_(live)


def trust_region_log_probs(
    reference_logits: Tensor,
    live_logits: Tensor,
    mix: float,
    space: Literal["logits", "probabilities"] = "logits",
) -> Tensor:
    """Log-probabilities of a teacher between the initial weights and the live ones, detached.

    Args:
        reference_logits: ``(..., vocab)`` under the initial weights.
        live_logits: Same shape, under the current weights.
        mix: Weight of the live side, in [0, 1].
        space: ``logits`` interpolates logits, which is the normalized geometric mean of both distributions;
            ``probabilities`` is their arithmetic mean.

    Returns:
        ``(..., vocab)`` log-probabilities in at least float32. They may be passed to a loss as teacher logits.

    Raises:
        ConfigError: ``mix`` is outside [0, 1] or ``space`` is unknown.
    """
    _check_rate("mix", mix)
    if space not in ("logits", "probabilities"):
        raise ConfigError(f"space={space!r}: expected logits or probabilities.")
    check_same_shape(live_logits, reference_logits)
    live, reference = live_logits.detach(), reference_logits.detach()
    if space == "logits":
        wide = torch.float64 if live.dtype == torch.float64 else torch.float32
        return log_probabilities(torch.lerp(reference.to(wide), live.to(wide), mix))
    if mix in (0.0, 1.0):
        return log_probabilities(live if mix else reference)
    of_reference, of_live = math.log1p(-mix), math.log(mix)
    return torch.logaddexp(log_probabilities(reference) + of_reference, log_probabilities(live) + of_live)


def _paired(teacher: Iterable[Tensor], student: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pairs of matching tensors, all checked first, so that no teacher is partly updated."""
    averages, lives = list(teacher), list(student)
    if len(averages) != len(lives):
        raise ConfigError(f"The teacher has {len(averages)} tensors, the student {len(lives)}: they must correspond.")
    for number, (average, live) in enumerate(zip(averages, lives, strict=True)):
        if average.shape != live.shape:
            raise ConfigError(
                f"Tensor {number}: teacher {tuple(average.shape)}, student {tuple(live.shape)}. Pass both sides in the "
                "same order."
            )
        if average.is_floating_point() and average.dtype not in (torch.float32, torch.float64):
            raise ConfigError(
                f"Tensor {number}: the average is kept in {average.dtype} and would stall at small rates. "
                "Keep a float32 copy and cast it when the teacher is scored."
            )
    return list(zip(averages, lives, strict=True))


def _check_rate(name: str, rate: float) -> None:
    if not 0.0 <= rate <= 1.0:
        raise ConfigError(f"{name}={rate}: expected the weight of the student, in [0, 1].")
