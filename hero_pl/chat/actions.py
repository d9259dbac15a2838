"""Read an action out of a model's reply. A reply that cannot be read is data: the model is told so and goes on.

An environment takes one canonical string: a plain reply, or ``{"name": ..., "arguments": ...}``. Each parser knows
one dialect that models speak, and how the tools are described to a model that speaks it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hero_pl.chat.calls import Calls, find_calls, read_calls
from hero_pl.chat.reasoning import UNFINISHED, inside_reasoning, without_thinking


@dataclass(frozen=True, slots=True)
class ParsedAction:
    """What a reply says: the canonical action, or why there is none."""

    action: str
    """The canonical string for the environment; empty if ``malformed``."""
    malformed: str | None = None
    """Told back to the model as an observation."""
    further_calls: int = 0
    """Tool calls after the first; they are not carried out."""


class ActionParser(ABC):
    """Reads one dialect of actions."""

    def describe(
        self, system_prompt: str, tools: Sequence[Mapping[str, Any]]
    ) -> tuple[str, tuple[Mapping[str, Any], ...]]:
        """System prompt and tool schemas as the chat template shall see them."""
        return system_prompt, tuple(tools)

    def parse(self, text: str, opened: bool = False) -> ParsedAction:
        """Read a decoded reply. Its reasoning is left out; a reply that ended inside its reasoning is malformed.

        Args:
            text: The decoded reply.
            opened: Whether the prompt has already opened the reasoning
                (:attr:`hero_pl.chat.template.ChatTemplate.opens_reasoning`).

        Example:
            >>> PlainText().parse("<think>The red one?</think>click[red]").action
            'click[red]'
            >>> PlainText().parse("<think>The red one, so I").malformed
            'The reply ended inside its reasoning, before any action.'
        """
        if inside_reasoning(text, opened):
            return ParsedAction("", UNFINISHED)
        return self.read(without_thinking(text).strip())

    @abstractmethod
    def read(self, reply: str) -> ParsedAction:
        """Read ``reply``: without reasoning, and without blanks around it."""

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

    def read(self, reply: str) -> ParsedAction:
        """The reply as it is; an empty one is malformed.

        Example:
            >>> PlainText().parse(" click[red] ").action
            'click[red]'
        """
        return ParsedAction(reply) if reply else ParsedAction("", "The reply was empty.")

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
    """A tool call in any of the common dialects (:mod:`hero_pl.chat.calls`), or a plain reply.

    Calls are written Hermes-style, ``<tool_call>{"name": ..., "arguments": ...}</tool_call>``. Only the first call of a
    reply is carried out, as in the stock agents of TauBench.
    """

    def locate(self, reply: str) -> tuple[int, int] | None:
        """The first call with its markers; a plain reply calls no tool.

        Example:
            >>> ToolCall().locate("Let me see. <tool_call>{}</tool_call> Done.")
            (12, 37)
        """
        calls = find_calls(reply)
        return (calls.start, calls.stop) if calls else None

    def write(self, call: Mapping[str, Any]) -> str:
        """The call between its tags."""
        return f"<tool_call>\n{json.dumps(dict(call))}\n</tool_call>"

    def read(self, reply: str) -> ParsedAction:
        """The first tool call; a reply without one is spoken to the user.

        Example:
            >>> ToolCall().parse('<tool_call>{"name": "think", "arguments": {"thought": "x"}}</tool_call>').action
            '{"name": "think", "arguments": {"thought": "x"}}'
            >>> ToolCall().parse('{"name": "get_order", "parameters": {"order_id": "#W1"}}').action
            '{"name": "get_order", "arguments": {"order_id": "#W1"}}'
            >>> ToolCall().parse("Hello, who are you?").action
            'Hello, who are you?'
        """
        if calls := find_calls(reply):
            return _parsed(calls)
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

    def read(self, reply: str) -> ParsedAction:
        r"""Read what follows the last ``Action:``; ``Action Input:`` may hold the arguments of the tool named there.

        Example:
            >>> ReAct().parse("Thought: search first.\nAction: search[red mug]").action
            'search[red mug]'
            >>> ReAct().parse('Thought: look.\nAction: find\nAction Input: {"text": "mug"}').action
            '{"name": "find", "arguments": {"text": "mug"}}'
        """
        _, found, tail = reply.rpartition("Action:")
        if not found:
            return ParsedAction("", "The reply has no line 'Action: ...'.")
        name, separate, arguments = tail.partition("Action Input:")
        if separate:
            return _parsed(read_calls(f"{name.strip()} {arguments}"))
        action = tail.strip().removeprefix("```json").strip("`").strip()
        if calls := find_calls(action):
            return _parsed(calls)
        return ParsedAction(action) if action else ParsedAction("", "Nothing follows 'Action:'.")


def _parsed(calls: Calls) -> ParsedAction:
    """The first call in canonical form, or why it cannot be read."""
    if calls.arguments is None:
        return ParsedAction("", calls.reason)
    return ParsedAction(calls.canonical, further_calls=calls.further)
