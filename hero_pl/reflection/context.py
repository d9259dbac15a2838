"""What a parser has to know about the episode that a reflection is about."""

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
    """The task: everything the policy knew before turn 1."""
    actions: tuple[str, ...]
    """Canonical action of each turn."""
    observations: tuple[str, ...]
    """What the environment answered after each action."""
    tools: tuple[str, ...]
    """Names of the tools; empty where actions are plain text."""
    final_reward: float
    texts: tuple[str, ...] = ()
    """What the policy wrote at each turn, where that is more than the action; empty or one per turn."""
    plain_replies: bool | None = None
    """Whether the environment takes plain words as a reply to a user; ``None`` where it does not say."""

    def __post_init__(self) -> None:
        lengths = {len(self.actions), len(self.observations), len(self.texts) or len(self.actions)}
        if len(lengths) > 1:
            raise ReflectionError(
                f"ReflectionContext was given {len(self.actions)} actions, {len(self.observations)} observations and "
                f"{len(self.texts)} texts; expected one of each per turn (texts may be left out)."
            )

    @classmethod
    def of(cls, trajectory: Trajectory) -> ReflectionContext:
        """Read a trajectory; tool schemas and the first observation belong to the task."""
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
        """Whether plain words are an action: the environment says so, or such an action was taken."""
        if self.plain_replies is not None:
            return self.plain_replies
        return any(action.strip() and not _CALL.match(action) for action in self.actions)


def tool_name(schema: Mapping[str, Any]) -> str:
    """Name in a tool schema, flat (``{"name": ...}``) or nested under ``function``; empty when there is none."""
    function = schema.get("function")
    inner = function if isinstance(function, Mapping) else schema
    return str(inner.get("name") or "")
