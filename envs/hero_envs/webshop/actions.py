"""Parse an action string to a command of the shop.

Two formats are accepted: the benchmark's own ``search[...]`` and ``click[...]``, and a tool call as JSON.
"""

import json
import unicodedata
from collections.abc import Collection
from typing import Any

_ARGUMENT_OF_TOOL = {"search": "query", "click": "element"}

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string", "description": meaning}},
                "required": [argument],
            },
        },
    }
    for name, description, argument, meaning in (
        ("search", "Look for products; the results page replaces the current page.", "query", "A few keywords."),
        ("click", "Press a button, open a product or choose an option.", "element", "The text exactly as shown."),
    )
]
"""JSON schemas of the two tools."""


def parse_native(action: str) -> tuple[str | None, str | None]:
    r"""Name and argument of a native action; ``(None, None)`` if the text is not one.

    The original matches ``(.+)\[(.+)\]`` at the start of the text. This function does not use a regular expression,
    which would need quadratic time for a line of brackets. It takes, on the first line, the last ``]`` and the last
    ``[`` with text before it and between the two. The argument is converted to lower case and otherwise unchanged.

    Example:
        >>> parse_native("click[Buy Now] please"), parse_native("buy it")
        (('click', 'buy now'), (None, None))
    """
    line = action.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 1, max(end - 1, 1))
    if start == -1:
        return None, None
    return line[:start], line[start + 1 : end].lower()


def parse(action: str) -> tuple[str | None, str | None, bool]:
    """Name, argument and whether the action is a tool call; ``(None, None, ...)`` if it cannot be parsed.

    Example:
        >>> parse('{"name": "click", "arguments": {"element": "Buy Now"}}')
        ('click', 'buy now', True)
    """
    if not action.lstrip().startswith("{"):
        return (*parse_native(action), False)
    try:
        call = json.loads(action)
    except (ValueError, RecursionError):
        return (*parse_native(action), False)
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None, None, True
    name, arguments = call["name"], call.get("arguments")
    argument = arguments.get(_ARGUMENT_OF_TOOL.get(name, "")) if isinstance(arguments, dict) else None
    if not isinstance(argument, str) or not argument:
        return None, None, True
    return name, argument.lower(), True


def page_spelling(argument: str, names: Collection[str]) -> str:
    r"""The name on the page that the argument of a click refers to: an exact match, or one equal in Unicode form NFC.

    Many tokenizers compose characters (NFC), so a policy reads and writes ``\u00e9`` where the page has ``e`` and a
    combining accent. The spelling of the page is returned, because goals are compared with it.

    Example:
        >>> page_spelling("caf\u00e9", ["tea", "cafe\u0301"]) == "cafe\u0301"
        True
    """
    if argument in names:
        return argument
    composed = unicodedata.normalize("NFC", argument)
    return next((name for name in names if unicodedata.normalize("NFC", name) == composed), argument)
