"""The command that starts the servers of a configuration."""

from __future__ import annotations

from collections.abc import Sequence

from hero_pl.cli.lightning import instantiate
from hero_pl.errors import ConfigError
from hero_pl.policy.server.launch import Device
from hero_pl.policy.server.sampler import ServerSampler


def serve_commands(args: Sequence[str], device: Device, memory: float, gpus: str = "") -> str:
    """One line per server, each below a comment that says which one it is; nothing is loaded or asked.

    Args:
        args: Arguments of ``fit``.
        device: Device of the servers.
        memory: Share of the memory of a GPU that each uses.
        gpus: Numbers of GPUs, one for each server, such as ``4,5``; default: not set.

    Raises:
        ConfigError: ``memory`` or ``gpus`` are none, the configuration samples in its own process, or a server cannot
            read the model.
    """
    devices = [part.strip() for part in gpus.split(",")] if gpus else []
    if not 0.0 < memory <= 1.0 or not all(part.isdigit() for part in devices):
        raise ConfigError(f"--memory {memory:g}, --devices {gpus}: expected a share, above 0 and up to 1, and numbers.")
    policy = instantiate(list(args), "serve-command", elsewhere=True).model.policy
    if not isinstance(policy.sampler, ServerSampler):
        raise ConfigError(
            "This configuration samples in its own process. For a server add --config configs/hardware/server.yaml, or "
            "set model.policy.init_args.sampler: {class_path: ServerSampler, ...}."
        )
    return "\n".join(policy.sampler.launch_lines(policy, device, memory, devices))
