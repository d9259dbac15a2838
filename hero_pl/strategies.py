"""Settings of the trainer that would train wrongly without a word, and are refused by name."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from hero_pl.errors import ConfigError

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
    one_of_these = type(strategy) in (SingleDeviceStrategy, DDPStrategy) and started == "popen"
    if one_of_these or strategy in STRATEGIES:
        return
    name = strategy if isinstance(strategy, str) else type(strategy).__name__ + f" ({started})" * (started != "popen")
    raise ConfigError(
        f"trainer.strategy={name}: not served. Each process needs all weights: use auto (one process) or ddp (one "
        "process per device). To fit a larger model: an adapter (lora), gradient_checkpointing, dtype: bfloat16."
    )


def check_precision(precision: Any) -> None:
    """Refuse 16-bit floats with a scaled loss, whose gradients would be clipped before the scale is undone.

    Raises:
        ConfigError: The precision is not served; the message has those that are.
    """
    if SHORT.get(str(precision), precision) not in PRECISIONS:
        raise ConfigError(f"trainer.precision={precision}: not served. Use one of {', '.join(PRECISIONS)}.")
