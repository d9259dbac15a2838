"""Switching an adapter of peft off for a while.

``disable_adapter`` of peft goes through all modules and parameters each time, which takes as long as a small pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def layers_with_adapter(model: Any) -> list[Any]:
    """The layers of a model that peft gave an adapter."""
    return [layer for layer in model.modules() if hasattr(layer, "_disable_adapters")]


@contextmanager
def switched_off(layers: Sequence[Any]) -> Iterator[None]:
    """Let these layers run without their adapters; they are as before afterwards, also after an error."""
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, off in zip(layers, before, strict=True):
            layer._disable_adapters = off
