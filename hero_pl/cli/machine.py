"""The machine that a configuration is written for, which may not be the one that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning.pytorch.cli import instantiate_class

from hero_pl.errors import ConfigError
from hero_pl.strategies import FSDP2Strategy, check_strategy

HERE = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
"""Settings of a trainer on any machine."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Devices and processes.

    Attributes:
        on_cpu: Whether the devices are CPUs.
        devices: Number of devices of each node; 1 if it is found at the start.
        nodes: Number of nodes.
        shards: Processes that share one copy of the weights.
    """

    on_cpu: bool = False
    devices: int = 1
    nodes: int = 1
    shards: int = 1

    @property
    def processes(self) -> int:
        """Processes that train, one per device."""
        return self.devices * self.nodes

    def describe(self, data: Any) -> str:
        """One line: the processes, and the episodes of a step.

        Args:
            data: The ``RolloutDataModule``.
        """
        episodes = data.tasks_per_step * data.group_size
        if self.processes == 1:
            return f"1 process; {episodes} episodes in a step"
        each = f"each with {episodes} episodes in a step, {episodes * self.processes} together"
        return f"{self.processes} processes ({self.nodes} x {self.devices}), {each}"


def elsewhere(trainer: Any) -> Machine:
    """Take the machine out of the settings of a trainer, which then are valid on any machine.

    Args:
        trainer: Settings of the trainer; changed in place.

    Raises:
        ConfigError: The strategy is not served.
    """
    given = {key: trainer.get(key) for key in HERE}
    strategy = given["strategy"]
    made = strategy if isinstance(strategy, str) else instantiate_class((), _plain(strategy))
    check_strategy(made)
    devices, nodes = _count(given["devices"]), int(given["num_nodes"] or 1)
    processes = devices * nodes
    if processes > 1 and type(made).__name__ == "SingleDeviceStrategy":
        raise ConfigError(f"trainer.strategy=SingleDeviceStrategy with {processes} processes: use ddp.")
    for key, value in HERE.items():
        trainer[key] = value
    shards = processes if isinstance(made, FSDP2Strategy) else 1
    return Machine(given["accelerator"] == "cpu", devices, nodes, shards)


def _plain(strategy: Any) -> dict[str, Any]:
    if not hasattr(strategy, "class_path"):
        return {"class_path": "lightning.pytorch.strategies.SingleDeviceStrategy"}
    return {"class_path": strategy.class_path, "init_args": dict(strategy.get("init_args") or {})}


def _count(devices: Any) -> int:
    """Devices of ``trainer.devices``; 1 where all that are there are meant."""
    if isinstance(devices, (list, tuple)):
        return len(devices)
    text = str(devices)
    if "," in text:
        return len([part for part in text.split(",") if part.strip()])
    return int(text) if text.isdigit() and int(text) else 1
