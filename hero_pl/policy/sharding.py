"""Shard the weights of a network over processes (FSDP2), and gather them for passes.

Each process plays other episodes, so it makes other passes, and a number of them that is not known beforehand. FSDP2
alone gathers the weights of a layer in each pass, which hangs as soon as two processes differ. Here all weights are
gathered before a part of a step, and only the backward pass communicates, layer by layer: gradients and averages of the
optimizer are always sharded, weights whenever nothing is computed with them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from hero_pl.errors import PolicyError


class Sharding:
    """Weights of a network of which each process has a part.

    Args:
        network: Its model is sharded.
        mesh: Processes, in one dimension.
    """

    def __init__(self, network: Any, mesh: DeviceMesh) -> None:
        self.mesh = mesh
        self._bare = replica(network.model, lambda p: torch.empty_like(p, device="meta"))
        self._gathered = False
        shard(network, network.model, mesh)
        register_fsdp_forward_method(network, "run")
        with self.gathered([network]), torch.no_grad():  # FSDP2 learns from the first pass which module is outermost
            ids = torch.zeros(1, 1, dtype=torch.long, device=network.device)
            network.run(network.logits_at, network.model, (0,), (0,), input_ids=ids, use_cache=False)

    @contextmanager
    def gathered(self, roots: Sequence[nn.Module]) -> Iterator[None]:
        """See :meth:`Network.gathered`; nothing is done inside of another one."""
        if self._gathered:
            yield
            return
        units: list[FSDPModule] = [m for root in roots for m in root.modules() if isinstance(m, FSDPModule)]
        for unit in units:
            unit.unshard()
        self._gathered = True
        try:
            yield
        finally:
            self._gathered = False
            for unit in units:
                unit.reshard()

    def check(self) -> None:
        """Refuse a pass with a part of the weights.

        Raises:
            PolicyError: The weights are not gathered.
        """
        if not self._gathered:
            raise PolicyError(
                "The weights are sharded over processes, and this one has only its part. Use policy.gathered() around "
                "the call, on all processes at the same place."
            )

    def frozen(self, model: Any, dtype: torch.dtype | None) -> Any:
        """A sharded, frozen copy of a sharded model."""
        device = next(model.parameters()).device
        made = replica(self._bare, lambda p: torch.zeros(p.shape, dtype=p.dtype, device=device)).to(dtype).eval()
        shard(made, made, self.mesh)
        with torch.no_grad():  # see above
            made(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)
        made.load_state_dict(model.state_dict())
        return made

    @torch.no_grad()
    def plain(self, model: Any) -> Any:
        """See :meth:`Network.plain`."""
        self.check()
        if dist.get_rank() != 0:
            return None
        made = replica(self._bare, lambda p: torch.empty(p.shape, dtype=p.dtype))
        for mine, theirs in zip(
            [*made.parameters(), *made.buffers()], [*model.parameters(), *model.buffers()], strict=True
        ):
            mine.copy_(theirs)
        return made


def replica(model: Any, parameter: Callable[[nn.Parameter], Tensor]) -> Any:
    """A copy of a model with other, frozen parameters; a parameter in two places stays one.

    Args:
        model: Not sharded.
        parameter: Makes each parameter of the copy.
    """
    made: dict[int, Any] = {id(p): nn.Parameter(parameter(p), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, made)


def shard(root: nn.Module, model: Any, mesh: DeviceMesh) -> None:
    """Leave each process only its part of the weights.

    Args:
        root: The model, or what holds it: all passes with gradients are inside one of it.
        model: A causal language model of transformers, or an adapter around one. The gradients of its blocks are
            reduced one block at a time.
        mesh: Processes, in one dimension.
    """
    units: list[Any] = [root, *blocks_of(model)]
    for unit in reversed(units):
        fully_shard(unit, mesh=mesh, reshard_after_forward=False)
    for unit, before in zip(units, [units[-1], *units], strict=False):
        # by default that depends on the passes before, also those without gradients, which differ between processes
        unit.set_modules_to_backward_prefetch([before])
        unit.set_reduce_scatter_unused_params(True, recurse=False)
        unit.set_force_sum_reduction_for_comms(True)  # gloo has no mean


def blocks_of(model: Any) -> list[nn.Module]:
    """The layers that transformers does not divide either; none if they share weights or contain each other."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    blocks = [module for module in base.modules() if type(module).__name__ in (base._no_split_modules or ())]
    owned = [id(p) for block in blocks for p in block.parameters()]
    return blocks if len(set(owned)) == len(owned) else []
