"""A key-value cache for one pass that only notes what the layers make, and copies nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class NotingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, as the layer made them."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Note ``(rows, heads, length, head size)`` and give them back."""
        self.keys, self.values = key_states, value_states
        return key_states, value_states


def noting_cache() -> Cache:
    """An empty cache for one pass."""
    return Cache(layer_class_to_replicate=NotingLayer)


def noted(cache: Any, lengths: Sequence[int]) -> Iterator[tuple[tuple[Tensor, Tensor], ...]]:
    """Keys and values of each row, without its padding on the right, as constants."""
    for row, length in enumerate(lengths):
        yield tuple(
            (layer.keys[row : row + 1, :, :length].detach(), layer.values[row : row + 1, :, :length].detach())
            for layer in cache.layers
        )
