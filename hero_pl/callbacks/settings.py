"""Compare the settings of a checkpoint with those of the resumed run; some changes need a confirmation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hero_pl.errors import ConfigError
from hero_pl.runs.settings import below, flat, harmless

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
    old, new = flat(before), flat(now)
    changed = [
        key
        for key in dict.fromkeys([*old, *new])
        if old.get(key, ABSENT) != new.get(key, ABSENT) and not below(key, UNSAID)
    ]
    lines = {key: f"{key}: {_short(old.get(key, ABSENT))} -> {_short(new.get(key, ABSENT))}" for key in changed}
    refused = [lines[key] for key in changed if below(key, LEARNED_FROM) and not harmless(key)]
    if refused and not accept:
        raise ConfigError(
            "These settings differ from those of the checkpoint, and they change what the run learns from:\n  "
            + "\n  ".join(refused)
            + "\nUse the settings of that run, start a new run (--resume never), or accept the changes with "
            "--resume_changed true."
        )
    return list(lines.values())


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
