"""Strategies of the trainer: those that are served, FSDP2, and which settings are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch.distributed.fsdp import FSDPModule

from hero_pl.errors import ConfigError
from hero_pl.sharded import gathered, optimizer_shared_out, shared_out

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")
"""Names of strategies that are served; ``auto`` is one process, or ``ddp`` with more than one device."""
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "64-true")
SHORT = {"None": "32-true", "32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}


def check_strategy(strategy: str | Strategy) -> None:
    """Refuse a strategy under which weights or gradients of the processes would differ, or that was never tried.

    Raises:
        ConfigError: It is not served; the message has those that are.
    """
    started = getattr(strategy, "_start_method", "popen")  # of DDPStrategy
    one_of_these = type(strategy) in (SingleDeviceStrategy, DDPStrategy, FSDP2Strategy) and started == "popen"
    if one_of_these or strategy in STRATEGIES:
        return
    name = strategy if isinstance(strategy, str) else type(strategy).__name__ + f" ({started})" * (started != "popen")
    raise ConfigError(
        f"trainer.strategy={name}: not served. Use auto (one process) or ddp (one process per device), where each has "
        "all weights, or hero_pl.strategies.FSDP2Strategy (configs/hardware/fsdp2.yaml), which shards weights and "
        "optimizer, without tensor parallelism (tensor_parallel_size) and with checkpoints of one file "
        "(save_distributed_checkpoint: false). To fit a larger model: an adapter (lora), gradient_checkpointing, "
        "dtype: bfloat16."
    )


def check_sharding(strategy: Strategy, matrix_lr: float | None) -> None:
    """Refuse settings that do not work with sharded weights.

    Raises:
        ConfigError: The optimizer needs whole matrices.
    """
    if isinstance(strategy, FSDP2Strategy) and matrix_lr is not None:
        raise ConfigError(
            f"model.matrix_lr={matrix_lr} with {type(strategy).__name__}: Muon needs whole matrices, and each process "
            "has only its rows. Remove matrix_lr (AdamW for all), or use trainer.strategy: ddp."
        )


def check_precision(precision: Any) -> None:
    """Refuse 16-bit floats with a scaled loss, whose gradients would be clipped before the scale is undone.

    Raises:
        ConfigError: The precision is not served; the message has those that are.
    """
    if SHORT.get(str(precision), precision) not in PRECISIONS:
        raise ConfigError(f"trainer.precision={precision}: not served. Use one of {', '.join(PRECISIONS)}.")


class FSDP2Strategy(ModelParallelStrategy):
    """Shards weights, gradients and optimizer over all processes, with checkpoints of one file.

    Lightning's ``ModelParallelStrategy`` counts nodes as data-parallel processes by default, and reads a checkpoint
    before the module has seen whether it fits. Here all processes are data-parallel, and a checkpoint is the same file
    that one process or ``ddp`` would write.

    Args:
        process_group_backend: ``nccl`` or ``gloo``; default: by device.
        timeout: After so long without an answer a process counts as dead.

    Raises:
        ConfigError: The version of torch is too old.
    """

    def __init__(self, process_group_backend: str | None = None, timeout: timedelta = timedelta(minutes=30)) -> None:
        if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
            raise ConfigError(
                f"{type(self).__name__} was tried with torch 2.13, and torch {torch.__version__} lacks what it needs. "
                "Update torch, or use trainer.strategy: ddp."
            )
        super().__init__("auto", 1, False, process_group_backend, timeout)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning passes the state on to :meth:`load_optimizer_state_dict`."""
        return True

    def setup_environment(self) -> None:
        """Connect the processes, all in one group."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights on the first process; all call this."""
        assert self.lightning_module is not None
        state: dict[str, Any] = gathered(self.lightning_module.state_dict())
        return state

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state of an optimizer on the first process; all call this."""
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state: dict[str, Any] = gathered(inner.state_dict())
        return state

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file, in every process."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take the part of this process."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        self.lightning_module.load_state_dict(shared_out(checkpoint["state_dict"], own), strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the part of this process."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(optimizer_shared_out(state, optimizer))
