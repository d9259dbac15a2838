"""Texts that are meant to do harm, drawn from a seed."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hero_pl.chat.calls import MARKERS

VALUES = (
    None,
    True,
    -1,
    1e308,
    "",
    "#W0",
    [],
    [[]],
    {},
    {"a": None},
    "\ud800",
    "x" * 5000,
    "9" * 5000,
    "../../x",
    "\x00",
)
"""Of the wrong type, or of the right one and wrong."""
PIECES = (
    *(marker for pair in MARKERS for marker in pair),
    *("<function=f>", "</function>", "<parameter=a>", "[ARGS]", "```json\n", "```", "<think>", "</think>", "Action:"),
    *('"', "\\", "{", "}", "[", "]", ",", ":", "\ud800", "\u2028", "\x00", "1e999", "NaN", "\\u12", "'"),
)


def hostile_replies(tools: Sequence[Mapping[str, Any]], count: int, seed: int = 0) -> Iterator[str]:
    """Broken tool calls: each is a correct one with one to three kinds of damage."""
    draw = random.Random(seed)
    functions = [tool["function"] for tool in tools]
    for _ in range(count):
        function = draw.choice(functions)
        arguments = {name: draw.choice(("#W1", 3, ["a"])) for name in function["parameters"]["properties"]}
        text = json.dumps({"name": function["name"], "arguments": arguments})
        for harm in draw.choices(HARMS, k=draw.randint(1, 3)):
            text = harm(text, draw)
        yield text


def _cut(text: str, draw: random.Random) -> str:
    return text[: draw.randrange(len(text) + 1)]


def _twice(text: str, draw: random.Random) -> str:
    return text + draw.choice(("", " ", "\n", ",", ";")) + text[draw.randrange(len(text) + 1) :] + text


def _unknown_tool(text: str, draw: random.Random) -> str:
    return text.replace('"name": "', '"name": "' + draw.choice(("__", "x", "\\ud800", "respond\\u0000")), 1)


def _wrong_type(text: str, draw: random.Random) -> str:
    try:
        call = json.loads(text)
        name = draw.choice(list(call["arguments"]))
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return text
    call["arguments"][name] = draw.choice(VALUES)
    return json.dumps(call, ensure_ascii=draw.random() < 0.5)


def _duplicate_key(text: str, draw: random.Random) -> str:
    return text.replace("{", '{"name": "calculate", "arguments": {}, ', draw.randint(1, 2))


def _deep(text: str, draw: random.Random) -> str:
    depth = draw.choice((60, 70, 500, 10_000))
    opening, closing = draw.choice((("[", "]"), ('{"a":', "}"), ("<think>", "</think>"), ("(", ")")))
    return text.replace(
        '"arguments": ', '"arguments": ' + opening * depth + draw.choice(("1" + closing * depth, "")), 1
    )


def _long(text: str, draw: random.Random) -> str:
    length = 1_000_000 if draw.random() < 0.004 else 3000
    return text.replace("#W1", draw.choice(("x", "\\n", "9", " ", "{")) * length, 1)


def _splice(text: str, draw: random.Random) -> str:
    for _ in range(draw.randint(1, 6)):
        place = draw.randrange(len(text) + 1)
        text = text[:place] + draw.choice(PIECES) + text[place + draw.randint(0, 3) :]
    return text


def _wrap(text: str, draw: random.Random) -> str:
    opening, closing = draw.choice(MARKERS)
    return draw.choice(("", "So: ", "<think>", "Action: ")) + opening + text + draw.choice((closing, ""))


HARMS = (_cut, _twice, _unknown_tool, _wrong_type, _duplicate_key, _deep, _long, _splice, _wrap)
