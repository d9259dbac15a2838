"""A key-value cache with room for what comes next, so that a new token does not copy all earlier ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

LEAST_ROOM = 64
"""Slots of free room at least whenever keys and values move to a larger place."""


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, views of a larger tensor; assigning others to them starts a new one."""

    _room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append ``(rows, heads, new slots, head size)``; the result has all slots."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        before: tuple[Any, Any] = self.keys, self.values
        used = before[0].shape[2]
        whole = used + key_states.shape[2]
        if self._room is None or not all(map(_holds, self._room, before, (whole, whole))):
            self._room = _larger(before[0], whole), _larger(before[1], whole)
        keys, values = self._room
        keys[:, :, used:whole], values[:, :, used:whole] = key_states, value_states
        self.keys, self.values = keys[:, :, :whole], values[:, :, :whole]
        return self.keys, self.values


def growing_cache() -> Cache:
    """An empty cache whose layers keep all their tokens."""
    return Cache(layer_class_to_replicate=GrowingLayer)


def _holds(room: Tensor, states: Tensor, slots: int) -> bool:
    """Whether ``states`` are still the first slots of ``room``, and so many slots fit into it."""
    return room.data_ptr() == states.data_ptr() and room.shape[0] == states.shape[0] and room.shape[2] >= slots


def _larger(states: Tensor, slots: int) -> Tensor:
    room = states.new_empty((*states.shape[:2], slots + max(LEAST_ROOM, slots // 4), states.shape[3]))
    room[:, :, : states.shape[2]] = states
    return room
