"""Read an action out of a model's reply. A reply that cannot be read is data: the model is told so and goes on.

An environment takes one canonical string: a plain reply, or ``{"name": ..., "arguments": ...}``. Each parser knows
one dialect that models speak, and how the tools are described to a model that speaks it.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

THINKING, THINKING_END = "<think>", "</think>"
"""Around the reasoning of a reply."""


def without_thinking(reply: str) -> str:
    """What follows the last ``</think>``; the whole reply if there is none.

    Example:
        >>> without_thinking("<think>They want tea.</think>search[tea]")
        'search[tea]'
    """
    return reply.rpartition(THINKING_END)[2]


@dataclass(frozen=True, slots=True)
class ParsedAction:
    """What a reply says: the canonical action, or why there is none."""

    action: str
    """The canonical string for the environment; empty if ``malformed``."""
    malformed: str | None = None
    """Told back to the model as an observation."""


class ActionParser(ABC):
    """Reads one dialect of actions."""

    def describe(
        self, system_prompt: str, tools: Sequence[Mapping[str, Any]]
    ) -> tuple[str, tuple[Mapping[str, Any], ...]]:
        """System prompt and tool schemas as the chat template shall see them."""
        return system_prompt, tuple(tools)

    @abstractmethod
    def parse(self, text: str) -> ParsedAction:
        """Read ``text`` (the decoded reply, without control tokens)."""

    def locate(self, reply: str) -> tuple[int, int] | None:
        """Where the action stands in a reply whose reasoning was cut off, or ``None`` if the reply has none.

        Returns:
            First letter and the one behind the last.
        """
        return 0, len(reply)

    def write(self, call: Mapping[str, Any]) -> str:
        """A tool call ``{"name": ..., "arguments": {...}}`` as a model of this dialect would write it."""
        return json.dumps(dict(call))

    def reply(self, action: str) -> str:
        """A canonical action as a whole reply in this dialect: :meth:`parse` reads it back.

        Example:
            >>> ToolCall().reply("Hello.")
            'Hello.'
        """
        try:
            call = json.loads(action) if action.startswith("{") else None
        except (ValueError, RecursionError):
            call = None
        return self.write(call) if isinstance(call, dict) and "name" in call else action


class PlainText(ActionParser):
    """The whole reply is the action; tools are not described (environments with a text grammar, small policies)."""

    def describe(
        self, system_prompt: str, tools: Sequence[Mapping[str, Any]]
    ) -> tuple[str, tuple[Mapping[str, Any], ...]]:
        """The system prompt alone."""
        return system_prompt, ()

    def parse(self, text: str) -> ParsedAction:
        """Strip surrounding blanks; an empty reply is malformed.

        Example:
            >>> PlainText().parse(" click[red] ").action
            'click[red]'
        """
        action = text.strip()
        return ParsedAction(action) if action else ParsedAction("", "The reply was empty.")

    def write(self, call: Mapping[str, Any]) -> str:
        """``name[argument]`` for calls with one argument, the bracket grammar of WebShop; else JSON.

        Example:
            >>> PlainText().write({"name": "click", "arguments": {"element": "red"}})
            'click[red]'
        """
        arguments = call.get("arguments")
        if isinstance(arguments, Mapping) and len(arguments) == 1:
            return f"{call.get('name')}[{next(iter(arguments.values()))}]"
        return super().write(call)


class ToolCall(ActionParser):
    """Hermes-style ``<tool_call>{"name": ..., "arguments": ...}</tool_call>``, a bare JSON call, or a plain reply.

    Only the first call of a reply is carried out, as in the stock agents of TauBench.
    """

    _call = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)

    def locate(self, reply: str) -> tuple[int, int] | None:
        """The first call with its tags, or a bare JSON call; a plain reply calls no tool.

        Example:
            >>> ToolCall().locate("Let me see. <tool_call>{}</tool_call> Done.")
            (12, 37)
        """
        if match := self._call.search(reply):
            return match.span()
        return (0, len(reply)) if reply.lstrip().startswith("{") and '"name"' in reply else None

    def write(self, call: Mapping[str, Any]) -> str:
        """The call between its tags."""
        return f"<tool_call>\n{json.dumps(dict(call))}\n</tool_call>"

    def parse(self, text: str) -> ParsedAction:
        """Read the first tool call; text without one is a plain reply.

        Example:
            >>> ToolCall().parse('<tool_call>{"name": "think", "arguments": {"thought": "x"}}</tool_call>').action
            '{"name": "think", "arguments": {"thought": "x"}}'
            >>> ToolCall().parse("Hello, who are you?").action
            'Hello, who are you?'
        """
        reply = without_thinking(text).strip()
        match = self._call.search(reply)
        if match:
            return _canonical(match.group(1))
        if reply.startswith("{") and '"name"' in reply:
            return _canonical(reply)
        return ParsedAction(reply) if reply else ParsedAction("", "The reply was empty.")


class ReAct(ActionParser):
    """``Thought: ...`` then ``Action: ...``, where the action is a JSON call or a plain reply."""

    instructions = (
        "\n\nYou may use these tools, described as JSON:\n{tools}\n\n"
        "Reply in this form and stop after the action:\n"
        "Thought: what you have learned and what to do next\n"
        'Action: {{"name": "tool name", "arguments": {{...}}}}\n'
        "To speak to the user instead of calling a tool, write the sentence itself after `Action:`."
    )
    plain_instructions = (
        "\n\nReply in this form and stop after the action:\nThought: what to do next and why\nAction: the action"
    )

    def describe(
        self, system_prompt: str, tools: Sequence[Mapping[str, Any]]
    ) -> tuple[str, tuple[Mapping[str, Any], ...]]:
        """The tools become part of the system prompt, so any chat template will do."""
        if not tools:
            return system_prompt + self.plain_instructions, ()
        return system_prompt + self.instructions.format(tools=json.dumps(list(tools))), ()

    def locate(self, reply: str) -> tuple[int, int] | None:
        """From the last ``Action:`` to the end."""
        start = reply.rfind("Action:")
        return (start, len(reply)) if start >= 0 else None

    def reply(self, action: str) -> str:
        """The action behind its word, without a thought.

        Example:
            >>> ReAct().reply("search[red mug]")
            'Action: search[red mug]'
        """
        return f"Action: {super().reply(action)}"

    def parse(self, text: str) -> ParsedAction:
        r"""Read what follows the last ``Action:``.

        Example:
            >>> ReAct().parse("Thought: search first.\nAction: search[red mug]").action
            'search[red mug]'
        """
        reply = without_thinking(text)
        _, found, tail = reply.rpartition("Action:")
        if not found:
            return ParsedAction("", "The reply has no line 'Action: ...'.")
        action = tail.strip().removeprefix("```json").strip("`").strip()
        if not action:
            return ParsedAction("", "Nothing follows 'Action:'.")
        return _canonical(action) if action.startswith("{") else ParsedAction(action)


def _canonical(text: str) -> ParsedAction:
    """One JSON object with ``name`` and ``arguments`` (object), rewritten in canonical form."""
    try:
        call, _ = json.JSONDecoder().raw_decode(text.strip())
    except (ValueError, RecursionError) as error:
        return ParsedAction("", f"The tool call is not valid JSON ({_short(error)}).")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return ParsedAction("", 'A tool call must be a JSON object with a string "name" and an object "arguments".')
    arguments = call.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        return ParsedAction("", 'The "arguments" of a tool call must be a JSON object.')
    return ParsedAction(json.dumps({"name": call["name"], "arguments": arguments}))


def _short(error: Exception) -> str:
    return str(error)[:120] if isinstance(error, ValueError) else "nested too deeply"
