"""The gradient of one optimizer step, micro-batch by micro-batch, on any number of processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hero_pl.batch import TokenizedBatch
from hero_pl.objectives.base import Step
from hero_pl.step import StepOutputs


def gradient(module: Any, step: Step, optimizer: Any) -> StepOutputs:
    """Run forward and backward over the whole step; each process has its own number of micro-batches.

    Args:
        module: The ``HeroModule``.
        step: Part of this process.
        optimizer: Its gradients are cleared first.
    """
    world, outputs = float(module.trainer.world_size), StepOutputs()
    optimizer.zero_grad()
    micros = list(step.batch.split(module.micro_batch_tokens))
    if module.policy.network is not None and module.policy.network.sharding is not None:
        _sharded(module, micros, optimizer, outputs)
        return outputs
    for i, micro in enumerate(micros):
        module.on_progress("learning", i, len(micros))
        with optimizer.toggle_model(sync_grad=i == len(micros) - 1):
            out = module.objective.loss(module.policy, micro)
            module.manual_backward(out.loss * world)  # DDP averages over processes; the shares must add up
        outputs.add(micro, out)
    if not micros:  # other processes have tokens: take part in their collective
        attached = [p.sum() * 0.0 for p in module.policy.parameters() if p.requires_grad]
        module.manual_backward(torch.stack(attached).sum())
    return outputs


def _sharded(module: Any, micros: list[TokenizedBatch], optimizer: Any, outputs: StepOutputs) -> None:
    """The same with sharded weights, where every backward pass is a collective.

    Processes with fewer micro-batches, or with fewer passes in one, add passes over one token with the factor 0.
    """
    policy, world = module.policy, float(module.trainer.world_size)
    for i in range(_largest(module, len(micros))):
        module.on_progress("learning", i, len(micros))
        parts: list[Tensor] = []
        with optimizer.toggle_model(), policy.gathered():
            before = policy.network.passes
            if i < len(micros):
                out = module.objective.loss(policy, micros[i])
                outputs.add(micros[i], out)
                parts.append(out.loss * world)  # FSDP2 averages over processes; the shares must add up
            passes = policy.network.passes - before
            parts += policy.network.blanks(_largest(module, passes) - passes)
            module.manual_backward(torch.stack(parts).sum())


def _largest(module: Any, number: int) -> int:
    """The largest of the numbers of all processes."""
    local = torch.tensor(number, dtype=torch.float32, device=module.device)
    return int(module.trainer.strategy.reduce(local, reduce_op="max"))
