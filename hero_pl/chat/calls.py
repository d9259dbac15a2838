"""Parse tool calls in the formats of common models: one table of markers, one of keys, one parser.

The formats differ in the markers around a call (``<tool_call>``, ``[TOOL_CALLS]``, ``<|python_tag|>``, a code fence, or
nothing) and in the keys inside (``arguments``, ``parameters``, ``args``, ...). A call is either parsed completely or
malformed with a reason; arguments are never dropped. JSON says of which type a value is; text between tags does not,
so there the schema of the tool decides.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MARKERS = (
    ("<tool_call>", "</tool_call>"),  # Hermes, Qwen
    ("<function_call>", "</function_call>"),
    ("<functioncall>", "</functioncall>"),
    ("<|tool_call_start|>", "<|tool_call_end|>"),  # LFM2 if told to write JSON; by default it writes Python
    ("<|tool_call|>", "<|/tool_call|>"),  # Granite, Phi-4
    ("<|python_tag|>", "<|eom_id|>"),  # Llama 3
    ("[TOOL_CALLS]", "[/TOOL_CALLS]"),  # Mistral
    ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),  # DeepSeek
)
"""Opening marker of a call, and the closing marker (may be missing at the end of a reply)."""

NAME_KEYS = ("name", "tool_name", "function_name", "tool", "function", "action")
"""Keys for the name of a tool; the first one present is used."""

ARGUMENT_KEYS = ("arguments", "parameters", "args", "input", "params", "kwargs", "tool_input", "action_input")
"""Keys for the arguments of a tool."""

WRAPPERS = ("function", "tool_call", "function_call", "tool_calls")
"""Keys of an object around a call, as in ``{"type": "function", "function": {...}}``."""

_BESIDE = frozenset({"id", "type", "index", "call_id", "tool_call_id"})
"""Keys that are ignored."""

_CLOSING = dict(MARKERS)
_NAMED = re.compile(r"<function=(?P<tag>[\w.\-]+)>")
_OPENING = re.compile("|".join([*map(re.escape, _CLOSING), r"<function=[\w.\-]+>"]))
_FENCE = re.compile(r"```[\w+\-]*[ \t]*\n?")
_BARE = re.compile(
    r'[\[{]\s*(?:\{\s*)?"(?:' + "|".join((*NAME_KEYS, *ARGUMENT_KEYS, *WRAPPERS, "type", "id")) + r')"\s*:'
)
_BEFORE_JSON = re.compile(  # possessive, so that a long run of spaces is read only once
    r"(?:function<｜tool▁sep｜>)?(?P<name>[\w.\-]++)\s*+(?:\[CALL_ID\]\w*+\s*+)?(?:(?:\[ARGS\]|<｜tool▁sep｜>|```(?:json)?)\s*+)?(?=\{)"
)
_PARAMETER = re.compile(r"\s*<parameter=([\w.\-]+)>\n?(.*)", re.DOTALL)
_ALTERNATIVES = ("anyOf", "oneOf")
_BETWEEN = re.compile(r"(?:\s|,|;|```|<\|[\w/]+\|>)*")


@dataclass(frozen=True, slots=True)
class Calls:
    """The tool calls of a reply."""

    start: int
    """Start index of the first call."""
    stop: int
    """End index of the first call."""
    name: str = ""
    arguments: Mapping[str, Any] | None = None
    """``None`` if the first call is malformed."""
    reason: str = ""
    """Why it is malformed."""
    further: int = 0
    """Number of calls after the first; only the first is executed."""

    @property
    def canonical(self) -> str:
        """The first call as the string for the environment."""
        return json.dumps({"name": self.name, "arguments": self.arguments})


def find_calls(reply: str, tools: Sequence[Mapping[str, Any]] = ()) -> Calls | None:
    """Find the calls in a reply without reasoning; ``None`` if it is plain text.

    Args:
        reply: The reply.
        tools: Schemas of the tools, with or without ``function`` around them, for parameters in tags.

    Example:
        >>> find_calls('[TOOL_CALLS][{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]').further
        1
        >>> find_calls("Hello, who are you?") is None
        True
    """
    opening = _OPENING.search(reply)
    if opening is None or _bare_end(reply) > opening.start():
        return _unmarked(reply, tools)
    return _marked(reply, opening, tools)


def call_of(value: Any) -> dict[str, Any] | None:
    """The call in a decoded JSON object, as ``{"name": ..., "arguments": {...}}``; ``None`` if there is no valid one.

    ``{"action": ...}`` without arguments is an action in a wrapper, not a call.

    Example:
        >>> call_of({"type": "function", "function": {"name": "find", "arguments": '{"id": 3}'}})
        {'name': 'find', 'arguments': {'id': 3}}
        >>> call_of({"name": "find", "order": 3}) is None
        True
    """
    if not isinstance(value, dict):
        return None
    if "action" in value and "name" not in value and not any(value.get(key) for key in ARGUMENT_KEYS):
        return None
    calls = _from_json(value, 0, 0, 0)
    return None if calls.arguments is None else {"name": calls.name, "arguments": dict(calls.arguments)}


def call_markers(reply: str) -> Iterator[tuple[int, int]]:
    """Start and end index of the markers around complete calls; the same words in an argument are text."""
    place = _bare_end(reply)
    while opening := _OPENING.search(reply, place):
        calls = _marked(reply, opening)
        if calls.arguments is None:
            return
        yield opening.span()
        place = calls.stop
        closing = _CLOSING.get(opening.group(), "")
        if closing and reply.endswith(closing, 0, place):
            yield place - len(closing), place


def read_calls(text: str, tools: Sequence[Mapping[str, Any]] = ()) -> Calls:
    """Parse a text that must be a call: an object, a list of objects, or a name with an object.

    Never raises: an unparsable call is malformed, with a reason.
    """
    start = len(text) - len(text.lstrip())
    fence = _FENCE.match(text, start)
    place = fence.end() if fence else start
    place += len(text[place:]) - len(text[place:].lstrip())
    if text.startswith("<function=", place):
        return _tagged(text, place, tools)
    name = "" if text[place : place + 1] in ("{", "[") else None
    if name is None and (match := _BEFORE_JSON.match(text, place)):
        name, place = match["name"], match.end()
    if name is None:
        return Calls(start, len(text), reason="A tool call must be a JSON object; this one has none.")
    try:
        value, stop = _STRICT.raw_decode(text, place)
    except (ValueError, RecursionError) as error:
        short = str(error)[:120] if isinstance(error, ValueError) else "nested too deeply"
        return Calls(start, len(text), reason=f"The tool call is not valid JSON ({short}).")
    further = _count(text, stop)
    if name:
        return _checked(start, stop, name, value, further)
    return _from_json(value, start, stop, further)


def _marked(reply: str, opening: re.Match[str], tools: Sequence[Mapping[str, Any]] = ()) -> Calls:
    """The first call after a marker; each later marker counts as one further call."""
    tagged = _NAMED.match(opening.group())
    closing = "</function>" if tagged else _CLOSING[opening.group()]
    body = opening.start() if tagged else opening.end()
    calls = read_calls(reply[body:], tools)
    stop = body + calls.stop
    end = reply.find(closing, opening.end() if calls.arguments is None else stop)
    if end >= 0 and (calls.arguments is None or not _OPENING.search(reply, stop, end)):
        stop = end + len(closing)
    later = [match.group() for match in _OPENING.finditer(reply, stop)]
    outer = sum(not _NAMED.match(marker) for marker in later)  # <tool_call><function=...> is one call
    return Calls(
        opening.start(), stop, calls.name, calls.arguments, calls.reason, calls.further + (outer or len(later))
    )


def _bare_end(reply: str) -> int:
    """End index of the call without a marker that a reply begins with; 0 if there is none."""
    start = len(reply) - len(reply.lstrip())
    calls = read_calls(reply) if _BARE.match(reply, start) else None
    return calls.stop if calls is not None and calls.arguments is not None else 0


def _unmarked(reply: str, tools: Sequence[Mapping[str, Any]]) -> Calls | None:
    """JSON without a marker: the whole reply, in a code fence, or at the end of a text."""
    start = len(reply) - len(reply.lstrip())
    fence = _FENCE.search(reply)
    if reply[start : start + 1] == "{" or _BARE.match(reply, start) or (fence and fence.start() == start):
        calls = read_calls(reply, tools)
        if calls.arguments is not None or _looks_meant(reply, start):
            return Calls(start, len(reply), calls.name, calls.arguments, calls.reason, calls.further)
        return None
    bare = _BARE.search(reply)
    if bare is None:
        return None
    calls = read_calls(reply[bare.start() :])
    if calls.arguments is None and '"name"' not in bare.group():
        return None
    return Calls(bare.start(), len(reply), calls.name, calls.arguments, calls.reason, calls.further)


def _looks_meant(reply: str, start: int) -> bool:
    """Whether an unparsable reply was meant as a call: it names a tool, or consists of JSON only."""
    if '"name"' in reply or _BARE.match(reply, start):
        return True
    try:
        json.loads(reply)
    except (ValueError, RecursionError):
        return False
    return True


def _from_json(value: Any, start: int, stop: int, further: int) -> Calls:
    """The first call of a decoded object or list."""
    for _ in range(4):  # the deepest known nesting is a list in a wrapper in a list
        if isinstance(value, list) and value:
            further += len(value) - 1
            value = value[0]
            continue
        wrapped = [
            value[key] for key in WRAPPERS if isinstance(value, dict) and isinstance(value.get(key), (dict, list))
        ]
        if not wrapped or "name" in value:
            break
        value = wrapped[0]
    if not isinstance(value, dict):
        return Calls(start, stop, reason='A tool call must be a JSON object with "name" and "arguments".')
    name_key = next((key for key in NAME_KEYS if isinstance(value.get(key), str) and value[key]), None)
    if name_key is None:
        return Calls(
            start, stop, reason='A tool call must be a JSON object with a string "name" and an object "arguments".'
        )
    given = [key for key in ARGUMENT_KEYS if key in value]
    if len(given) > 1:
        return Calls(start, stop, reason=f'The tool call has {given[0]!r} and {given[1]!r}; give "arguments" alone.')
    unknown = set(value) - _BESIDE - {name_key}
    if not given and unknown:
        key = sorted(unknown)[0][:40]
        return Calls(
            start, stop, reason=f'The tool call has {key!r} but no "arguments": put that into an object there.'
        )
    return _checked(start, stop, value[name_key], value[given[0]] if given else {}, further)


def _checked(start: int, stop: int, name: str, arguments: Any, further: int) -> Calls:
    """A call whose arguments are an object, or a string with the JSON of one."""
    if isinstance(arguments, str):
        try:
            arguments = _STRICT.decode(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        return Calls(start, stop, reason='The "arguments" of a tool call must be a JSON object.')
    return Calls(start, stop, name, arguments, further=further)


def _tagged(text: str, place: int, tools: Sequence[Mapping[str, Any]]) -> Calls:
    """``<function=name>{...}</function>``, or with parameters in tags instead of the object."""
    tag = _NAMED.match(text, place)
    if tag is None:
        return Calls(place, len(text), reason="The name of the tool in <function=...> is not closed.")
    end = text.find("</function>", tag.end())
    stop = end if end >= 0 else len(text)
    body = text[tag.end() : stop].strip()
    if body.startswith("{"):
        return _checked(place, stop, tag["tag"], body, 0)
    *parts, rest = body.split("</parameter>")
    matches = [_PARAMETER.fullmatch(part) for part in parts]
    if rest.strip() or not all(matches):
        return Calls(place, stop, reason="Between <function=...> and </function> stand only closed parameters.")
    schemas = _parameters(tag["tag"], tools)
    values = {one[1]: _value(one[2].removesuffix("\n"), schemas.get(one[1])) for one in matches if one}
    return Calls(place, stop, tag["tag"], values)


def _parameters(name: str, tools: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Schemas of the parameters of a tool; empty if they are not known."""
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and function.get("name") == name:
            parameters = function.get("parameters")
            properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
            return properties if isinstance(properties, Mapping) else {}
    return {}


def _value(raw: str, schema: Any) -> Any:
    """Value of a parameter in a tag: text where the schema takes text, else JSON if it is valid JSON.

    Without a type in the schema only lists and objects are decoded, because ``9377`` can be a number or a zip code.
    """
    types = _types(schema)
    if "string" in types or (not types and raw.lstrip()[:1] not in ("{", "[")):
        return raw
    try:
        return _STRICT.decode(raw)
    except (ValueError, RecursionError):
        return raw


def _types(schema: Any) -> set[str]:
    """The types that a schema accepts, also as alternatives; empty if it names none."""
    if not isinstance(schema, Mapping):
        return set()
    named = schema.get("type")
    types = {one for one in (named if isinstance(named, list | tuple) else [named]) if isinstance(one, str)}
    for key in _ALTERNATIVES:
        others = schema.get(key)
        for one in others if isinstance(others, list | tuple) else ():
            types |= _types(one)
    return types


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


_STRICT = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
"""Refuses ``NaN``, ``Infinity`` and numbers too large for a float, which no action could contain as JSON."""


def _count(text: str, place: int) -> int:
    """Number of objects directly after the first call."""
    further = 0
    while True:
        match = _BETWEEN.match(text, place)
        place = match.end() if match else place
        if text[place : place + 1] not in ("{", "["):
            return further
        try:
            value, place = _STRICT.raw_decode(text, place)
        except (ValueError, RecursionError):
            return further
        further += len(value) if isinstance(value, list) else 1
