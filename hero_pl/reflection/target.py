"""Parse and check the corrected action of a turn, and convert it to the string for the environment.

Reflectors write actions in several ways: a tool call in any form of :mod:`hero_pl.chat.calls`,
``{"name": "respond", ...}`` or plain text for a reply to the user, ``{"action": ...}`` around either, ``click[red]``,
or the action format of the policy. :func:`canonical_action` converts all of them to the same string.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hero_pl.chat.calls import call_of, find_calls
from hero_pl.chat.reasoning import without_thinking
from hero_pl.reflection.context import ReflectionContext
from hero_pl.reflection.json_scan import Members, plain, scan
from hero_pl.types import Confidence

if TYPE_CHECKING:
    from hero_pl.chat.actions import ActionParser

RESPOND = "respond"
"""Name of the call that sends its ``content`` to the user; environments do not list it as a tool."""
_NULL_TARGETS = {"", "n/a", "na", "none", "null", "nil", "-", "tbd", "undefined", "not applicable"}
_BRACKETS = re.compile(r"(\w+)\[(.*)\]", re.DOTALL)
_DIALECT = re.compile(r"\s*(?:<tool_call>|Action:|```(?:json)?\s)?\s*(.*?)\s*(?:</tool_call>|```)?\s*", re.DOTALL)


def read_target(
    value: Any, confidence: Confidence, episode: ReflectionContext, turn: int
) -> tuple[Mapping[str, Any] | None, list[str]]:
    """Keep a corrected action only if the environment accepts it, the confidence is not low, and it is a new action.

    Args:
        value: Value of ``next_action_target``. Plain text is a reply if the environment accepts replies; a text like
            ``click[red]`` is a call with one argument if an action of the episode has this form.
        confidence: Parsed confidence of the turn.
        episode: Context with the tools and the actions of the episode.
        turn: Number of the turn, from 1.

    Returns:
        The target, a call as ``{"name": ..., "arguments": {...}}``, and the codes of changes: ``target_decoded`` (from
        text, or a call in another form), ``bad_target`` (no action, or a malformed call), ``unknown_tool``,
        ``target_without_confidence``, ``target_equals_action``.
    """
    action, codes = _decode(value, episode)
    if action is None:
        return None, codes
    if problem := _problem(action, episode):
        return None, [*codes, problem]
    if confidence == "low":
        return None, [*codes, "target_without_confidence"]
    wrote = without_thinking(episode.texts[turn - 1]) if episode.texts else ""
    as_written = isinstance(value, str) and _folded(value) == _folded(wrote)
    if as_written or _same(canonical_action(action), episode.actions[turn - 1]):
        return None, [*codes, "target_equals_action"]
    return _as_given(value, action, codes), codes


def canonical_action(target: Mapping[str, Any]) -> str:
    """The string for the environment: the text of a reply or of a text action, else the call as JSON.

    Example:
        >>> canonical_action({"name": "respond", "arguments": {"content": "Which order?"}})
        'Which order?'
        >>> canonical_action({"action": {"name": "find", "arguments": {"id": 3}}})
        '{"name": "find", "arguments": {"id": 3}}'
        >>> canonical_action({"name": "find", "parameters": {"id": 3}})
        '{"name": "find", "arguments": {"id": 3}}'
    """
    if _is_wrapper(target):
        action = target["action"]
        return canonical_action(action) if isinstance(action, Mapping) else str(action).strip()
    call = call_of(dict(target)) or dict(target)
    words = _reply(call)
    return json.dumps(call) if words is None else words


def target_reply(target: Mapping[str, Any], parser: ActionParser) -> str:
    """The corrected action as the policy would send it.

    Example:
        >>> from hero_pl.chat.actions import PlainText
        >>> target_reply({"action": "open chest"}, PlainText())
        'open chest'
        >>> target_reply({"name": "click", "arguments": {"element": "red"}}, PlainText())
        'click[red]'
    """
    return parser.reply(canonical_action(target))


def _reply(call: Mapping[str, Any]) -> str | None:
    """The text of a ``respond`` call, or ``None``."""
    arguments = call.get("arguments")
    content = arguments.get("content") if call.get("name") == RESPOND and isinstance(arguments, Mapping) else None
    return content.strip() or None if isinstance(content, str) else None


def _decode(value: Any, episode: ReflectionContext) -> tuple[Mapping[str, Any] | None, list[str]]:
    """The call, text action or reply in a JSON value."""
    if isinstance(value, dict):
        return _decode(value["action"], episode) if _is_wrapper(value) else _from_call(value, episode)
    if value is None:
        return None, []
    if not isinstance(value, str):
        return None, ["bad_target"]
    text = value.strip()
    if text.strip("\"'").casefold() in _NULL_TARGETS:
        return None, []
    match = _DIALECT.fullmatch(text)
    text = match[1] if match else text
    for span in scan(text):
        if (span.start, span.end) == (0, len(text)) and isinstance(span.value, Members) and span.value.complete:
            action, codes = _decode(plain(span.value), episode)
            return action, ["target_decoded", *codes]
        return None, ["bad_target"]  # JSON with text around it, or an invalid call, is not a reply
    if calls := find_calls(text):  # a call without JSON: its parameters are in tags
        whole = calls.arguments is not None and not (text[: calls.start] + text[calls.stop :]).strip()
        call = {"name": calls.name, "arguments": calls.arguments}
        return (call, ["target_decoded"]) if whole else (None, ["bad_target"])
    return _from_text(text, episode)


def _is_wrapper(value: Mapping[str, Any]) -> bool:
    """Whether an object is ``{"action": ...}`` around an action."""
    return "name" not in value and "action" in value and call_of(value) is None


def _from_call(value: dict[str, Any], episode: ReflectionContext) -> tuple[Mapping[str, Any] | None, list[str]]:
    call = call_of(value)
    if call is None:
        return None, [_problem(value, episode) or "bad_target"]
    return call, [] if {"arguments": {}, **value} == call else ["target_decoded"]


def _as_given(value: Any, action: Mapping[str, Any], codes: list[str]) -> Mapping[str, Any]:
    """The target as it is kept: in the wrapper that it came in, and a text action there as it was written."""
    if not isinstance(value, dict) or not _is_wrapper(value):
        return action
    return value if isinstance(value["action"], str) and not codes else {"action": action}


def _from_text(text: str, episode: ReflectionContext) -> tuple[Mapping[str, Any] | None, list[str]]:
    brackets = _BRACKETS.fullmatch(text)
    if brackets and not episode.tools:
        return {"name": brackets[1], "arguments": {"argument": brackets[2]}}, []
    if brackets and any(_BRACKETS.fullmatch(action.strip()) for action in episode.actions):
        return ({"action": text}, []) if brackets[1] in episode.tools else (None, ["unknown_tool"])
    if not episode.takes_replies or text[:1] in "{[":
        return None, ["bad_target"]
    return ({"name": RESPOND, "arguments": {"content": text}} if episode.tools else {"action": text}), []


def _problem(action: Mapping[str, Any], episode: ReflectionContext) -> str | None:
    """Code of the reason why the environment would not accept an action."""
    name = action.get("name")
    if isinstance(name, str) and name in episode.tools:
        return None
    if name == RESPOND and episode.plain_replies is not False:
        return None if _reply(action) else "bad_target"
    if episode.tools:
        return None if isinstance(action.get("action"), str) and "name" not in action else "unknown_tool"
    return None if isinstance(name or action.get("action"), str) else "bad_target"


def _same(target: str, taken: str) -> bool:
    """Whether two actions are equal. Calls: independent of key order, missing arguments count as empty. Text:
    independent of case and white space. A call with one argument also equals ``name[argument]``.
    """
    one, other = _call(target), _call(taken)
    if one and other:
        return _exact(one) == _exact(other) or _brackets(one) == _brackets(other) is not None
    return _folded(_brackets(one) or target) == _folded(_brackets(other) or taken)


def _call(action: str) -> dict[str, Any] | None:
    """The tool call of an action, or ``None`` for plain text."""
    try:
        return call_of(json.loads(action)) if action.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None


def _exact(call: Mapping[str, Any]) -> str:
    return json.dumps(call, sort_keys=True, ensure_ascii=False)


def _brackets(call: Mapping[str, Any] | None) -> str | None:
    """A call with one argument as ``name[argument]``; a reply as its text."""
    if call is None:
        return None
    if words := _reply(call):
        return words
    arguments = call["arguments"]
    if not isinstance(arguments, Mapping) or len(arguments) != 1:
        return None
    return f"{call.get('name')}[{next(iter(arguments.values()))}]"


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
