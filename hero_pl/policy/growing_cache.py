"""A key-value cache with room for what comes next, so that a new token does not copy all earlier ones.

A pass may run the first rows alone: the others keep their states, and their new slots hold zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

LEAST_ROOM = 64
"""Slots of free room at least whenever keys and values move to a larger place."""


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one layer; ``keys`` and ``values`` are views of those rows that the next pass runs."""

    rooms: tuple[Tensor, ...] = ()
    """All rows with their free slots: ``(rows, heads, slots, head size)`` of keys and of values."""
    used = 0
    """Slots that hold something."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append ``(rows, heads, new slots, head size)`` to the first rows; the result has all their slots."""
        new = key_states, value_states
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.rooms = tuple(states[:, :, :0] for states in new)
        rows, before, whole = len(key_states), self.used, self.used + key_states.shape[2]
        if self.rooms[0].shape[2] < whole:
            self.rooms = tuple(_larger(room[:, :, :before], whole) for room in self.rooms)
        for room, states in zip(self.rooms, new, strict=True):
            room[:rows, :, before:whole] = states
        return self.show(rows, whole)

    def show(self, rows: int, slots: int) -> tuple[Tensor, Tensor]:
        """Let the next pass run the first ``rows``, behind the first ``slots``."""
        self.used = slots
        keys, values = (room[:rows, :, :slots] for room in self.rooms)
        self.keys, self.values = keys, values
        return keys, values

    def swap(self, one: Sequence[int], other: Sequence[int]) -> None:
        """Exchange rows; only what is in them is copied."""
        there, here = [*one, *other], [*other, *one]
        for room in self.rooms:
            room[there, :, : self.used] = room[here, :, : self.used]

    def keep(self, rows: int) -> None:
        """Forget all but the first ``rows``."""
        self.rooms = tuple(room[:rows] for room in self.rooms)

    def reorder(self, order: Tensor) -> None:
        """Take slots in the order ``(rows, slots)``, which has no more of them than are used."""
        rows, slots = order.shape
        self.rooms = tuple(room.contiguous() for room in self.rooms)
        for room in self.rooms:
            heads, all_slots, size = room.shape[1:]
            first = all_slots * torch.arange(rows * heads, device=order.device).view(rows, heads, 1)
            places = (first + order[:, None]).flatten()
            # several times as fast as gather, whose index has an entry for every number
            room[:, :, :slots] = room.view(-1, size).index_select(0, places).view(rows, heads, slots, size)
        self.show(rows, slots)

    def beside(self, other: GrowingLayer) -> None:
        """Put the rows of another cache below these; the last slots of both stand side by side."""
        slots, used, rows = self.used, other.used, len(self.rooms[0])
        whole = max(slots, used)
        joined = []
        for room, new in zip(self.rooms, other.rooms, strict=True):
            both = room.new_zeros(rows + len(new), room.shape[1], _with_room(whole), room.shape[3])
            both[:rows, :, whole - slots : whole] = room[:, :, :slots]
            both[rows:, :, whole - used : whole] = new[:, :, :used]
            joined.append(both)
        self.rooms = tuple(joined)
        self.show(len(joined[0]), whole)


def growing_cache() -> Cache:
    """An empty cache whose layers keep all their tokens."""
    return Cache(layer_class_to_replicate=GrowingLayer)


def _larger(states: Tensor, slots: int) -> Tensor:
    # zeros: a row that is not run must hold no NaN, which attention would spread although the slot is masked
    room = states.new_zeros((*states.shape[:2], _with_room(slots), states.shape[3]))
    room[:, :, : states.shape[2]] = states
    return room


def _with_room(slots: int) -> int:
    return slots + max(LEAST_ROOM, slots // 4)
