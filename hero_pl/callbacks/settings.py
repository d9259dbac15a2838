"""What changed between a checkpoint's settings and those it is resumed with, and which changes are harmless."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hero_pl.errors import ConfigError

LEARNED_FROM = (
    "seed_everything",
    "model.policy",
    "model.objective",
    "model.updates_per_batch",
    "model.max_staleness",
    "data",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.precision",
    "trainer.limit_train_batches",
)
"""A change here, or below it, makes another run of the rest; it needs ``--resume_changed true``."""
HARMLESS = (
    "data.eval_episodes",
    "data.eval_temperature",
    "data.limits.num_envs",
    "data.limits.threads",
    "model.policy.init_args.gradient_checkpointing",
)
"""Exceptions to the above: they change speed, memory or evaluations."""
OF_ENDPOINTS = (
    *("base_url", "url", "api_key_env", "api_key_variable", "concurrency"),
    *("timeout_s", "max_retries", "backoff_s", "max_wait_s", "max_failures", "max_total_tokens", "spend_cap"),
)
"""Where a reflector or a user simulator asks, and for how long and how much: what they answer depends on the model."""
UNSAID = ("ckpt_path", "config", "resume", "resume_changed", "weights_only", "trainer.logger")
"""About this start of the program alone."""
ABSENT = "absent"


def compare_settings(before: Mapping[str, Any], now: Mapping[str, Any], accept: bool) -> list[str]:
    """One line per changed setting, ``key: old -> new``, all of which take effect.

    Args:
        before: Settings in the checkpoint; empty if it was made without a configuration.
        now: Settings of this start.
        accept: Whether changes of what was learned from are wanted.

    Raises:
        ConfigError: They are not; with all changes and the cure.
    """
    if not before:
        return []
    old, new = dict(_flat(before)), dict(_flat(now))
    changed = [
        key
        for key in dict.fromkeys([*old, *new])
        if old.get(key, ABSENT) != new.get(key, ABSENT) and not _below(key, UNSAID)
    ]
    lines = {key: f"{key}: {_short(old.get(key, ABSENT))} -> {_short(new.get(key, ABSENT))}" for key in changed}
    refused = [lines[key] for key in changed if _below(key, LEARNED_FROM) and not _harmless(key)]
    if refused and not accept:
        raise ConfigError(
            "These settings differ from those of the checkpoint, and they decide what was learned from:\n  "
            + "\n  ".join(refused)
            + "\nGive the settings of that run, start a new one (--resume never), or accept the change with "
            "--resume_changed true."
        )
    return list(lines.values())


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and their values; a section that is absent and one that is empty are alike."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        elif value is not None:
            found.append((f"{prefix}{key}", value))
    return found


def _harmless(key: str) -> bool:
    *places, name = key.split(".")
    asks = "reflector" in places or key.startswith("data.env_args.user.")
    return _below(key, HARMLESS) or (asks and name in OF_ENDPOINTS)


def _below(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
