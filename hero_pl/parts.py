"""State of the exchangeable parts of a component in a checkpoint, with the class that each part had."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

CLASSES = "classes"
"""Key of the names of the classes."""


class Part(Protocol):
    """Something with a state."""

    def state_dict(self) -> Mapping[str, Any]:
        """The state."""

    def load_state_dict(self, state: Any) -> None:
        """Restore it."""


def parts_state(parts: Mapping[str, Part]) -> dict[str, Any]:
    """State of each part by its name, and the names of their classes."""
    classes = {name: type(part).__name__ for name, part in parts.items()}
    return {**{name: part.state_dict() for name, part in parts.items()}, CLASSES: classes}


def load_parts(parts: Mapping[str, Part], state: Mapping[str, Any]) -> None:
    """Restore :func:`parts_state`; a part that is of another class than then starts afresh, with a warning.

    Args:
        parts: The parts of now.
        state: Their state. Without classes (checkpoints of 0.1.0) the entries of a state tell whether it is that of
            the part.
    """
    for name, part in parts.items():
        now, saved = type(part).__name__, state[name]
        then = state.get(CLASSES, {}).get(name)
        if then == now or (then is None and part.state_dict().keys() <= saved.keys()):
            part.load_state_dict(saved)
        else:
            warnings.warn(
                f"{name}: the checkpoint was written with {then or 'another class'}, the configuration has {now}. It "
                "starts afresh, without the state of the former.",
                stacklevel=2,
            )
