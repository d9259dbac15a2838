"""Compare the settings of a checkpoint with those of the resumed run; some changes need a confirmation."""

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
"""A change of these keys, or below them, changes what the run learns from; it needs ``--resume_changed true``."""
HARMLESS = (
    "data.eval_episodes",
    "data.eval_temperature",
    "data.limits.num_envs",
    "data.limits.threads",
    "data.limits.workers",
    "data.limits.transport",
    "data.limits.step_timeout_s",
    "data.limits.reset_timeout_s",
    "data.limits.broken_share",
    "model.policy.init_args.gradient_checkpointing",
)
"""Exceptions to the above: these change speed, memory, evaluations or when a run gives up."""
OF_ENDPOINTS = (
    *("base_url", "url", "api_key_env", "api_key_variable", "concurrency"),
    *("timeout_s", "max_retries", "backoff_s", "max_wait_s", "max_failures", "max_total_tokens", "spend_cap"),
)
"""Settings of a reflector or user simulator on a server that do not change what the model behind it answers."""
UNSAID = ("ckpt_path", "config", "resume", "resume_changed", "weights_only", "trainer.logger")
"""Keys that are not compared, because they are about this start of the program only."""
ABSENT = "absent"


def compare_settings(before: Mapping[str, Any], now: Mapping[str, Any], accept: bool) -> list[str]:
    """Return one line per changed setting, ``key: old -> new``.

    Args:
        before: Settings in the checkpoint; empty if it was written without a configuration.
        now: Settings of the resumed run.
        accept: Whether to accept changes of what the run learns from.

    Raises:
        ConfigError: There are such changes and ``accept`` is false; the message lists them and the remedies.
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
            "These settings differ from those of the checkpoint, and they change what the run learns from:\n  "
            + "\n  ".join(refused)
            + "\nUse the settings of that run, start a new run (--resume never), or accept the changes with "
            "--resume_changed true."
        )
    return list(lines.values())


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and their values; an absent section and an empty one are equal."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{key}.")
        elif value is not None:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _harmless(key: str) -> bool:
    *places, name = key.split(".")
    asks = "reflector" in places or key.startswith("data.env_args.user.")
    return _below(key, HARMLESS) or (asks and name in OF_ENDPOINTS)


def _below(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
