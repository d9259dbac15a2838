"""The episode as text, for parsing a reflection on it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hero_pl.errors import ReflectionError
from hero_pl.types import Trajectory

_CALL = re.compile(r"\s*(?:\{|\w+\[.*\]\s*\Z)", re.DOTALL)
"""A call as JSON, or as ``name[argument]``."""


@dataclass(frozen=True, slots=True)
class ReflectionContext:
    """The episode as text, for the leak check and for the checks of a corrected action."""

    context: str
    """The task: all text that the policy saw before turn 1."""
    actions: tuple[str, ...]
    """Canonical action of each turn."""
    observations: tuple[str, ...]
    """Reply of the environment to each action."""
    tools: tuple[str, ...]
    """Names of the tools; empty if actions are plain text."""
    final_reward: float
    texts: tuple[str, ...] = ()
    """Full reply of the policy at each turn, if it is more than the action; empty or one per turn."""
    plain_replies: bool | None = None
    """Whether the environment accepts plain text as a reply to a user; ``None`` if it does not report it."""

    def __post_init__(self) -> None:
        lengths = {len(self.actions), len(self.observations), len(self.texts) or len(self.actions)}
        if len(lengths) > 1:
            raise ReflectionError(
                f"ReflectionContext got {len(self.actions)} actions, {len(self.observations)} observations and "
                f"{len(self.texts)} texts; expected one of each per turn (texts may be left out)."
            )

    @classmethod
    def of(cls, trajectory: Trajectory) -> ReflectionContext:
        """Build the context of a trajectory; tool schemas and the first observation are part of the task."""
        schemas = [json.dumps(tool, ensure_ascii=False, default=str) for tool in trajectory.tools]
        return cls(
            context="\n".join([trajectory.system_prompt, *schemas, trajectory.first_observation]),
            actions=tuple(turn.action for turn in trajectory.turns),
            observations=tuple(turn.observation for turn in trajectory.turns),
            tools=tuple(name for name in map(tool_name, trajectory.tools) if name),
            final_reward=trajectory.reward,
            texts=tuple(turn.text for turn in trajectory.turns),
            plain_replies=trajectory.info.get("plain_replies"),
        )

    @property
    def takes_replies(self) -> bool:
        """Whether plain text is an action: the environment reports it, or the episode has such an action."""
        if self.plain_replies is not None:
            return self.plain_replies
        return any(action.strip() and not _CALL.match(action) for action in self.actions)


def tool_name(schema: Mapping[str, Any]) -> str:
    """Name in a tool schema, flat (``{"name": ...}``) or nested under ``function``; empty if there is none."""
    function = schema.get("function")
    inner = function if isinstance(function, Mapping) else schema
    return str(inner.get("name") or "")
