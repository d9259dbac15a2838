"""A checkpoint stores only the trained weights; check that they belong to a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from hero_pl.errors import ConfigError


def frozen_names(module: nn.Module) -> set[str]:
    """Parameters of the pretrained model that an adapter does not train; they are not saved."""
    return {name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}


def check_weights(module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Refuse the weights of another model, before any parameter is changed.

    Raises:
        ConfigError: Names or shapes differ, or the frozen weights are not those of the checkpoint's run.
    """
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    frozen = frozen_names(module)
    for name in sorted(own.keys() - frozen | given.keys()):
        if own.get(name) != given.get(name):
            raise ConfigError(
                f"The checkpoint does not hold weights of this policy: {name} is {given.get(name, 'missing')} in "
                f"it and {own.get(name, 'missing')} in the policy. Use the configuration of the run that wrote it."
            )
    state = checkpoint.get("hero", {})
    leans_on_origin = frozen or any(not weights for weights in state.get("copies", {}).values())
    if leans_on_origin and state.get("origin") != getattr(module.policy, "origin", ""):
        raise ConfigError(
            "The pretrained model is not the one that this checkpoint was trained from, and the checkpoint holds "
            "only the trained weights. Use the model of that run (model.policy.init_args.pretrained)."
        )
