"""Facts for a card from the ``config.yaml`` of a run: base model, environment, settings; and the name of a method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

PARTS = ("reflector", "teacher", "weights", "divergence", "gate", "correction")
"""Attributes of an objective that hold its components."""


def at(settings: Any, *keys: str) -> Any:
    """The value at a path of keys; ``None`` if there is none."""
    for key in keys:
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings


def method(objective: object) -> str:
    """The name of an objective and of its components."""
    parts = {name: getattr(objective, name, None) for name in PARTS}
    named = [f"{name} {type(part).__name__}" for name, part in parts.items() if type(part).__module__ != "builtins"]
    return type(objective).__name__ + (f" ({', '.join(named)})" if named else "")


def base_model(settings: Mapping[str, Any]) -> str:
    """Name of the initial model of the policy, without local folders."""
    arguments = at(settings, "model", "policy", "init_args") or {}
    if arguments.get("pretrained"):
        return without_folders(str(arguments["pretrained"]))
    kind = at(arguments, "config", "model_type")
    return f"random weights ({kind})" if kind else "unknown"


def hub_id(settings: Mapping[str, Any]) -> str | None:
    """The base model if it is on the hub (``user/name``); ``None`` for a folder and for packaged checkpoints."""
    name = at(settings, "model", "policy", "init_args", "pretrained")
    on_hub = isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists()
    return name if on_hub else None


def shown(settings: Mapping[str, Any]) -> str:
    """The sections ``model`` and ``data`` as YAML, without values of ``None`` and without local folders."""
    kept = {key: clean(settings[key]) for key in ("model", "data") if key in settings}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100).strip()


def clean(value: Any) -> Any:
    """Settings without values of ``None`` and without local folders."""
    if isinstance(value, Mapping):
        return {key: clean(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [clean(one) for one in value]
    return without_folders(value) if isinstance(value, str) else value


def without_folders(text: str) -> str:
    """Only the last part of an absolute path: a card is public, and local folders must not appear in it."""
    absolute = text.startswith(("/", "~", "\\\\")) or re.match(r"[A-Za-z]:[\\/]", text)
    return PurePath(text.replace("\\", "/")).name if absolute and "\n" not in text else text
