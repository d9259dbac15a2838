"""State of which every process holds a part: gather it for a file, and take the own part of what a file holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(value: Any) -> Any:
    """A tensor with the parts of all processes, or the tensor itself; all processes call this in the same order."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gathered(state: Any) -> Any:
    """A nested state in which the first process has every tensor, in the memory of the host, and the others ``None``.

    Args:
        state: Dictionaries, lists and tuples of the same shape on all processes.
    """
    if isinstance(state, Mapping):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(gathered(value) for value in state)
    if isinstance(state, DTensor):
        value = state.full_tensor().detach()
        return value.cpu() if dist.get_rank() == 0 else None
    return state


def shared_out(state: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """The part of this process of whole tensors; no process waits for another.

    Args:
        state: Whole tensors by name, the same on all processes.
        like: Tensors by name; those with parts elsewhere say which part is taken.
    """
    return {name: _own_part(value, like.get(name)) for name, value in state.items()}


def _own_part(value: Any, like: Any) -> Any:
    parted = isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape
    if not parted or isinstance(value, DTensor):
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def optimizer_shared_out(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """:func:`shared_out` for the state of an optimizer, whose tensors have the shapes of its parameters."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    parts = {
        number: {name: _own_part(value, params[int(number)]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": parts}
