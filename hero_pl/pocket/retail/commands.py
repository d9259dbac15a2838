"""Action format of the small retail policies: ``tool[first | second]``, or plain text to the customer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hero_envs.tau_bench.prompts import RETAIL_SCHEMAS
from hero_pl.chat.actions import ActionParser, ParsedAction, PlainText

_COMMAND = re.compile(r"(\w+)\[(.*)\]", re.DOTALL)
_BETWEEN = " | "
_TOOLS: dict[str, dict[str, Any]] = {
    schema["function"]["name"]: schema["function"]["parameters"]["properties"] for schema in RETAIL_SCHEMAS
}


class RetailCommands(ActionParser):
    """Parses ``tool[first | second]``; arguments are in the order of the tool's schema, lists are comma-separated."""

    describe = PlainText.describe

    def read(self, reply: str, tools: Sequence[Mapping[str, Any]] = ()) -> ParsedAction:
        """Parse a command as a tool call; all other text is a message to the customer.

        Example:
            >>> RetailCommands().parse("get_order_details[#W12]").action
            '{"name": "get_order_details", "arguments": {"order_id": "#W12"}}'
            >>> RetailCommands().parse("Anything else?").action
            'Anything else?'
        """
        match = _COMMAND.fullmatch(reply)
        if not match:
            return ParsedAction(reply) if reply else ParsedAction("", "The reply was empty.")
        kinds = _TOOLS.get(match[1], {})
        values = match[2].split(_BETWEEN) if match[2] else []
        if kinds and len(values) > len(kinds):
            return ParsedAction("", f"{match[1]} takes {len(kinds)} arguments, not {len(values)}.")
        arguments: dict[str, Any] = {
            name: value.split(", ") if kind["type"] == "array" else value
            for (name, kind), value in zip(kinds.items(), values, strict=False)
        }
        return ParsedAction(json.dumps({"name": match[1], "arguments": arguments}))

    def write(self, call: Mapping[str, Any]) -> str:
        """Format a tool call as a command, and a ``respond`` call as its text.

        Example:
            >>> RetailCommands().write({"name": "get_order_details", "arguments": {"order_id": "#W12"}})
            'get_order_details[#W12]'
        """
        arguments = call.get("arguments")
        if not isinstance(arguments, Mapping):
            return super().write(call)
        if call.get("name") == "respond":
            return str(arguments.get("content", ""))
        values = (", ".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for v in arguments.values())
        return f"{call.get('name')}[{_BETWEEN.join(values)}]"
