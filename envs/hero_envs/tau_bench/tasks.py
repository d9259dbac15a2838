"""Tasks: the request of a user, and the calls that lead to the correct end state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Action:
    """One call: a tool's name, or ``respond``, with its arguments."""

    name: str
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a split."""

    id: str
    """``<split>-<index>``."""
    user_id: str
    instruction: str
    """Knowledge and request of the user, in the second person."""
    actions: tuple[Action, ...]
    """Ground truth: these calls give the database that is rewarded."""
    outputs: tuple[str, ...] = ()
    """Texts that the policy must send to the user."""

    def sha256(self) -> str:
        """Hash (hex) of everything that determines how the task is played and scored."""
        actions = [[action.name, dict(action.kwargs)] for action in self.actions]
        content = [self.id, self.user_id, self.instruction, actions, list(self.outputs)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def task_from_json(split: str, index: int, value: Mapping[str, Any]) -> Task:
    """Build a task from ``{user_id, instruction, actions[{name, kwargs}], outputs[str]}``."""
    return Task(
        id=f"{split}-{index}",
        user_id=value["user_id"],
        instruction=value["instruction"],
        actions=tuple(Action(action["name"], action["kwargs"]) for action in value["actions"]),
        outputs=tuple(value["outputs"]),
    )


def tasks_from_json(split: str, values: Sequence[Mapping[str, Any]]) -> tuple[Task, ...]:
    """Build all tasks of one split, in file order."""
    return tuple(task_from_json(split, index, value) for index, value in enumerate(values))
