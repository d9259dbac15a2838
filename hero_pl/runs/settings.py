"""Settings of a run, from its ``config.yaml``, and which of them decide its results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from hero_pl.errors import HeroError

CONFIG_FILE = "config.yaml"
OTHER_NAME = "another name: --held_out.method NAME --trainer.logger.init_args.name NAME"
"""What to do with a run whose method has the name of another one."""
GUARD = "collapse_guard"
DECISIVE = ("model", "data", "held_out", GUARD, "trainer.precision", "trainer.devices", "trainer.num_nodes")
"""The results of a run depend on these keys, and on those below them."""
PLAYED = ("data.eval_temperature", "data.max_action_tokens", "data.limits.max_turns")
"""How episodes are played. Scores of methods that differ in it do not differ by the method alone."""
OWN = ("data.seed", "held_out.at_turns", "held_out.method", "held_out.block", "held_out.logged_episodes")
"""Exceptions to the above: runs of one method may differ in them."""
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
"""Settings of training that change speed, memory, evaluations or when a run gives up, and not what it learns from."""
OF_ENDPOINTS = (
    *("base_url", "url", "api_key_env", "api_key_variable", "concurrency"),
    *("timeout_s", "max_retries", "backoff_s", "max_wait_s", "max_failures", "max_total_tokens", "spend_cap"),
)
"""Settings of a reflector or user simulator on a server that do not change what the model behind it answers."""


def read_settings(run: Path) -> dict[str, Any]:
    """The configuration of a run; empty if the run has recorded none.

    Raises:
        HeroError: The file cannot be read.
    """
    path = run / CONFIG_FILE
    if not path.exists():
        return {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise HeroError(f"{path} cannot be read ({error}). It must be the configuration of the run.") from error
    return values if isinstance(values, dict) else {}


def flat(values: Mapping[str, Any], prefix: str = "", every: bool = False) -> dict[str, Any]:
    """Dotted keys and their values; an absent section and an empty one are equal.

    Args:
        values: A configuration.
        prefix: Of all keys.
        every: Also give keys without a value, as ``None``, and those of sections that have one, as ``set``.
    """
    pairs: dict[str, Any] = {}
    for key, value in values.items():
        name, section = f"{prefix}{key}", isinstance(value, Mapping)
        if section:
            pairs |= flat(value, f"{name}.", every)
        if every or not (section or value is None):
            pairs[name] = ("set" if value else None) if section else value
    return pairs


def below(key: str, sections: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of the sections, or below one."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def harmless(key: str) -> bool:
    """Whether a dotted key does not change what a run learns from."""
    *places, name = key.split(".")
    asks = "reflector" in places or key.startswith("data.env_args.user.")
    return below(key, HARMLESS) or (asks and name in OF_ENDPOINTS)


def decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings on which the results of a run depend, without those that runs of one method differ in."""
    every = flat(settings, every=True)
    if every.get(f"{GUARD}.action") in ("off", "warn"):  # both leave the weights as they are
        every = {key: value for key, value in every.items() if not below(key, (GUARD,))} | {f"{GUARD}.action": "warn"}
    return {
        key: value
        for key, value in every.items()
        if below(key, DECISIVE) and not below(key, OWN) and (below(key, PLAYED) or not harmless(key))
    }


def differences(runs: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Keys with several values in the settings of runs, with these values.

    A key that a run lacks is an option that its version did not know yet, and does not count; one without a value does.
    """
    found: dict[str, list[Any]] = {}
    for settings in runs:
        for key, value in settings.items():
            values = found.setdefault(key, [])
            if value not in values:
                values.append(value)
    return {key: values for key, values in found.items() if len(values) > 1}
