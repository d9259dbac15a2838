"""Choose the precision of a run by what this machine does fast."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import Tensor

MIXED = "bf16-mixed"
FASTER = 1.3
"""Least ratio of speeds with which bfloat16 is taken: hardware for it gives about 2, and without it it is slower."""
CHOSEN = "HERO_PL_PRECISION"
"""Environment variable by which processes that this one starts make the same choice."""
SHAPE = (512, 576, 1536)
"""Rows, inputs and outputs of the product that is timed: a layer of a small language model."""


def choose_precision(trainer: Any) -> str | None:
    """Set ``trainer.precision``, unless it is given, to ``bf16-mixed`` where that is fast.

    Args:
        trainer: Settings of the trainer; changed in place.

    Returns:
        What was chosen and why, in one line; ``None`` if nothing was to choose.
    """
    if trainer.get("precision") is not None:
        return None
    on_gpu = trainer.get("accelerator") in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    device, _, before = os.environ.get(CHOSEN, "").partition(" ")
    if before and device == ("cuda" if on_gpu else "cpu"):
        trainer.precision = before
        return None
    if on_gpu:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        reason = f"this GPU {'has' if fast else 'has no'} bfloat16"
    else:
        ratio = bfloat16_speed()
        fast, reason = ratio >= FASTER, f"products are {ratio:.1f} times as fast in bfloat16 on this CPU"
    trainer.precision = MIXED if fast else "32-true"
    os.environ[CHOSEN] = f"{'cuda' if on_gpu else 'cpu'} {trainer.precision}"
    return f"trainer.precision: {trainer.precision} ({reason})"


def bfloat16_speed() -> float:
    """Speed of a matrix product in bfloat16 on the CPU, as a multiple of that in float32; takes a tenth of a second."""
    rows, width, out = SHAPE
    inputs, weight = torch.ones(rows, width), torch.ones(out, width)
    kinds = [(inputs, weight), (inputs.bfloat16(), weight.bfloat16())]
    best = [min(times) for times in zip(*([_seconds(*pair) for pair in kinds] for _ in range(4)), strict=True)]
    return float(best[0] / best[1])


def _seconds(inputs: Tensor, weight: Tensor) -> float:
    started = time.perf_counter()
    torch.nn.functional.linear(inputs, weight)
    return time.perf_counter() - started
