"""Trajectories as chat messages in the format that trainers read: tool calls with ids, and results with these ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

from hero_pl.chat.actions import ActionParser, PlainText, ReAct, ToolCall
from hero_pl.chat.calls import call_of
from hero_pl.chat.reasoning import reasoning_end
from hero_pl.export.defuse import Defuser
from hero_pl.types import Trajectory, Turn

ChatMessage: TypeAlias = dict[str, Any]
_PARSERS: tuple[ActionParser, ...] = (ReAct(), ToolCall())
"""Parsers that read calls with text around them; ``ReAct`` first, because its thoughts may name calls."""


def as_call(action: str) -> dict[str, Any] | None:
    """The tool call that a canonical action contains, or ``None`` if the action is plain text.

    Example:
        >>> as_call('{"name": "find", "arguments": {"id": 3}}'), as_call("find[3]")
        ({'name': 'find', 'arguments': {'id': 3}}, None)
    """
    if not action.startswith("{"):
        return None
    try:
        return call_of(json.loads(action))
    except (ValueError, RecursionError):
        return None


def takes_calls(trajectory: Trajectory) -> bool:
    """Whether the policy called tools in this episode."""
    return any(as_call(turn.action) for turn in trajectory.turns)


def opening(trajectory: Trajectory, safe: Defuser) -> list[ChatMessage]:
    """System prompt and first observation. A record does not contain the role of the latter; it is always ``user``."""
    system = [{"role": "system", "content": safe.outside(trajectory.system_prompt)}] if trajectory.system_prompt else []
    return [*system, {"role": "user", "content": safe.outside(trajectory.first_observation)}]


def reply(turn: Turn, safe: Defuser) -> ChatMessage:
    """The policy's reply at a turn: its text, and the call that was executed.

    A call is not repeated in the text: reasoning and the text around the call are kept. A record does not name the
    parser. If neither of the above finds the executed call in the reply, all of the reply after the reasoning counts as
    the call.
    """
    call = as_call(turn.action) if turn.malformed is None else None
    if call is None:
        return {"role": "assistant", "content": safe.model(turn.text)}
    start, stop = _located(turn.text, call)
    after = "" if turn.further_calls else turn.text[stop:]  # further calls were not executed
    return _calling((turn.text[:start] + after).strip(), call, turn, safe)


def instead(turn: Turn, action: str, calls: bool, safe: Defuser) -> ChatMessage:
    """A reply with another action at the same turn.

    Args:
        turn: Turn of the replaced action.
        action: The other action, in canonical form.
        calls: Whether the policy calls tools; else a call is written as the text ``name[argument]``.
        safe: Breaks control tokens.
    """
    call = as_call(action)
    if call is not None and calls:
        return _calling("", call, turn, safe)
    return {"role": "assistant", "content": safe.model(PlainText().reply(action))}


def answer(turn: Turn, reply_message: ChatMessage, safe: Defuser) -> ChatMessage:
    """The observation after a turn."""
    content = safe.outside(turn.observation)
    calls = reply_message.get("tool_calls")
    if turn.role == "tool" and calls:
        name = calls[0]["function"]["name"]
        return {"role": "tool", "tool_call_id": calls[0]["id"], "name": name, "content": content}
    return {"role": turn.role, "content": content}


def conversation(trajectory: Trajectory, safe: Defuser, turns: Sequence[Turn] | None = None) -> list[ChatMessage]:
    """The messages of an episode from its start.

    Args:
        trajectory: The episode.
        safe: Breaks control tokens.
        turns: The first turns of the episode, each with its observation; default: all turns, without the observation
            after the last one.
    """
    messages = opening(trajectory, safe)
    for turn in trajectory.turns if turns is None else turns:
        reply_message = reply(turn, safe)
        messages.append(reply_message)
        if turns is not None or turn is not trajectory.turns[-1]:
            messages.append(answer(turn, reply_message, safe))
    return messages


def tools(trajectory: Trajectory, calls: bool, safe: Defuser) -> str:
    """The tools as JSON, which trainers parse; an empty list if the actions are text."""
    return json.dumps(safe.data(trajectory.tools) if calls else [], ensure_ascii=False)


def _calling(words: str, call: dict[str, Any], turn: Turn, safe: Defuser) -> ChatMessage:
    # nine letters and digits: some chat templates accept no other id
    made = {"id": f"call{turn.number:05d}", "type": "function", "function": safe.data(call)}
    return {"role": "assistant", "content": safe.model(words), "tool_calls": [made]}


def _located(text: str, call: dict[str, Any]) -> tuple[int, int]:
    """Start and end index of the executed call in a reply, as its parser found it: after the reasoning."""
    thought = reasoning_end(text)
    rest = text[thought:]
    for parser in _PARSERS:
        located = parser.locate(rest)
        if located is not None and as_call(parser.read(rest.strip()).action) == call:
            return thought + located[0], thought + located[1]
    return thought, len(text)
