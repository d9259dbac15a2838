"""Trajectories as chat messages in the form that trainers read: tool calls with ids, results that name them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from hero_pl.chat.actions import PlainText
from hero_pl.chat.calls import find_calls
from hero_pl.export.defuse import Defuser
from hero_pl.types import Trajectory, Turn

ChatMessage: TypeAlias = dict[str, Any]
_LABEL = re.compile(r"\s*Action:\s*$")
"""What ReAct writes in front of a call."""


def as_call(action: str) -> dict[str, Any] | None:
    """The tool call that a canonical action is, or ``None`` for words.

    Example:
        >>> as_call('{"name": "find", "arguments": {"id": 3}}'), as_call("find[3]")
        ({'name': 'find', 'arguments': {'id': 3}}, None)
    """
    if not action.startswith("{"):
        return None
    try:
        call = json.loads(action)
    except (ValueError, RecursionError):
        return None
    is_call = isinstance(call, dict) and isinstance(call.get("name"), str) and isinstance(call.get("arguments"), dict)
    return {"name": call["name"], "arguments": call["arguments"]} if is_call else None


def takes_calls(trajectory: Trajectory) -> bool:
    """Whether the policy called tools in this episode."""
    return any(as_call(turn.action) for turn in trajectory.turns)


def opening(trajectory: Trajectory, safe: Defuser) -> list[ChatMessage]:
    """System prompt and first observation, which a record keeps without its role; it is that of a user."""
    system = [{"role": "system", "content": safe.outside(trajectory.system_prompt)}] if trajectory.system_prompt else []
    return [*system, {"role": "user", "content": safe.outside(trajectory.first_observation)}]


def reply(turn: Turn, safe: Defuser) -> ChatMessage:
    """What the policy said at a turn: its words, and the call that was carried out."""
    call = as_call(turn.action) if turn.malformed is None else None
    if call is None:
        return {"role": "assistant", "content": safe.model(turn.text)}
    found = find_calls(turn.text)
    words = turn.text if found is None else turn.text[: found.start] + _after(turn, found.stop)
    return _calling(_LABEL.sub("", words).strip(), call, turn, safe)


def instead(turn: Turn, action: str, calls: bool, safe: Defuser) -> ChatMessage:
    """Another action at the same turn.

    Args:
        turn: At which it is to be said.
        action: Canonical.
        calls: Whether the policy calls tools; else a call is written as the text ``name[argument]``.
        safe: Breaks control tokens.
    """
    call = as_call(action)
    if call is not None and calls:
        return _calling("", call, turn, safe)
    return {"role": "assistant", "content": safe.model(PlainText().reply(action))}


def answer(turn: Turn, said: ChatMessage, safe: Defuser) -> ChatMessage:
    """The observation after a turn."""
    content = safe.outside(turn.observation)
    calls = said.get("tool_calls")
    if turn.role == "tool" and calls:
        name = calls[0]["function"]["name"]
        return {"role": "tool", "tool_call_id": calls[0]["id"], "name": name, "content": content}
    return {"role": turn.role, "content": content}


def conversation(trajectory: Trajectory, safe: Defuser, turns: Sequence[Turn] | None = None) -> list[ChatMessage]:
    """The episode from its start, up to the last observation that was answered.

    Args:
        trajectory: The episode.
        safe: Breaks control tokens.
        turns: Its first turns, each with its observation; default: all, without the observation after the last.
    """
    found = opening(trajectory, safe)
    for turn in trajectory.turns if turns is None else turns:
        said = reply(turn, safe)
        found.append(said)
        if turns is not None or turn is not trajectory.turns[-1]:
            found.append(answer(turn, said, safe))
    return found


def tools(trajectory: Trajectory, calls: bool) -> str:
    """The tools as JSON, which trainers parse; empty where actions are text and the policy was shown none."""
    return json.dumps(list(trajectory.tools) if calls else [], ensure_ascii=False)


def _calling(words: str, call: dict[str, Any], turn: Turn, safe: Defuser) -> ChatMessage:
    # nine letters and digits: some chat templates accept no other id
    made = {"id": f"call{turn.number:05d}", "type": "function", "function": call}
    return {"role": "assistant", "content": safe.model(words), "tool_calls": [made]}


def _after(turn: Turn, stop: int) -> str:
    """Words behind the call; none if there are further calls, which were not carried out."""
    return "" if turn.further_calls else turn.text[stop:]
