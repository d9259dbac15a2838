"""The command that starts the servers of a configuration."""

from __future__ import annotations

from collections.abc import Sequence

from hero_pl.cli.lightning import instantiate
from hero_pl.errors import ConfigError
from hero_pl.policy.server.launch import Device
from hero_pl.policy.server.sampler import ServerSampler


def serve_commands(args: Sequence[str], device: Device) -> str:
    """One line per server, each below a comment that says which one it is; nothing is loaded or asked.

    Args:
        args: Arguments of ``fit``.
        device: Device of the servers.

    Raises:
        ConfigError: The configuration samples in its own process, or a server cannot read the model.
    """
    policy = instantiate(list(args), "serve-command").model.policy
    if not isinstance(policy.sampler, ServerSampler):
        raise ConfigError(
            "This configuration samples in its own process. For a server add --config configs/hardware/server.yaml, or "
            "set model.policy.init_args.sampler: {class_path: ServerSampler, ...}."
        )
    return "\n".join(policy.sampler.launch_lines(policy, device))
