"""Refuse what the parser of configurations lets pass: null where a value is needed, a list where keys are."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace

from hero_pl.errors import ConfigError

LONGEST = 200
"""Characters of a value in a message at most."""


def check_values(parser: Any, config: Any) -> None:
    """Check all values of a parsed configuration.

    Args:
        parser: The parser of this configuration, without subcommands.
        config: Its values.

    Raises:
        ConfigError: One is null, but its type has no null, or a section has no keys; the message has the key.
    """
    for section in {action.dest.partition(".")[0] for action in parser._actions if "." in action.dest}:
        value = config.get(section)
        if value is not None and not isinstance(value, (Mapping, Namespace)):
            raise ConfigError(
                f"{section}: {str(value)[:LONGEST]}: expected keys and values, such as {section}: {{...}}."
            )
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        if hint is None or action.dest not in config:
            continue
        value = config[action.dest]
        lacking = value is None and action.default is not None and not _may_be_null(hint)
        for key in [action.dest] if lacking else _nulls(action.dest, value):
            raise ConfigError(f"{key} has no value (null). Give one, or remove the key to use the default.")


def _nulls(key: str, value: Any) -> Iterator[str]:
    """Keys below a value, which may describe components, that are null and must not be."""
    if isinstance(value, (list, tuple)):
        for i, one in enumerate(value):
            yield from _nulls(f"{key}[{i}]", one)
    if not isinstance(value, (Mapping, Namespace)):
        return
    given = value.get("init_args")
    if isinstance(value.get("class_path"), str) and isinstance(given, (Mapping, Namespace)):
        hints = _hints(value["class_path"])
        for name, one in vars(given).items() if isinstance(given, Namespace) else given.items():
            inner = f"{key}.init_args.{name}"
            if one is None and name in hints and not _may_be_null(hints[name]):
                yield inner
            yield from _nulls(inner, one)


def _hints(class_path: str) -> dict[str, Any]:
    """Types of the arguments of a class, without those that are null by default."""
    module, _, name = class_path.rpartition(".")
    try:
        cls = getattr(__import__(module, fromlist=[name]), name)
        hints = get_type_hints(cls.__init__)
        parameters = inspect.signature(cls).parameters
    except (ImportError, AttributeError, NameError, TypeError, ValueError):  # a class without usable types
        return {}
    return {name: hint for name, hint in hints.items() if name in parameters and parameters[name].default is not None}


def _may_be_null(hint: Any) -> bool:
    return hint in (Any, NoneType, None) or NoneType in get_args(hint) or Any in get_args(hint)
