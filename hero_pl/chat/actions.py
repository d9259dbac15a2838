"""Parse the action in a model's reply. An unparsable reply is not an error: the model gets the reason and continues.

An environment takes one canonical string: a plain reply, or ``{"name": ..., "arguments": ...}``. Each parser handles
one action format, and describes the tools to the model in this format.
"""

from __future__ import annotations

import inspect
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hero_pl.chat.call_form import HERMES, template_form, write_json
from hero_pl.chat.calls import Calls, call_markers, find_calls, read_calls
from hero_pl.chat.reasoning import UNFINISHED, inside_reasoning, without_thinking
from hero_pl.chat.template import TOOL_PREFIX
from hero_pl.chat.traits import TOOL

if TYPE_CHECKING:
    from hero_pl.chat.template import ChatTemplate

_ACTION = re.compile(r"^[ \t]*Action:", re.MULTILINE)
_INPUT = re.compile(r"(?:^|\A\s*[\w.\-]++)[ \t]*(Action Input:)", re.MULTILINE)
"""At the start of a line or after the name of a tool; elsewhere these words are text."""
_INVENTED = re.compile(rf"^[ \t]*(?:Observation:|{re.escape(TOOL_PREFIX.strip())})", re.MULTILINE)
"""An observation in a reply: in the words of ReAct, or in those that prompts have (templates without a tool role)."""


@dataclass(frozen=True, slots=True)
class ParsedAction:
    """Result of parsing a reply: the canonical action, or the reason why there is none."""

    action: str
    """The canonical string for the environment; empty if ``malformed``."""
    malformed: str | None = None
    """Reason why the reply could not be parsed; sent to the model as an observation."""
    further_calls: int = 0
    """Number of other actions in the reply; they are not executed."""


class ActionParser(ABC):
    """Parses one action format."""

    def describe(
        self, system_prompt: str, tools: Sequence[Mapping[str, Any]]
    ) -> tuple[str, tuple[Mapping[str, Any], ...]]:
        """System prompt and tool schemas to pass to the chat template."""
        return system_prompt, tuple(tools)

    def parse(self, text: str, opened: bool = False, tools: Sequence[Mapping[str, Any]] = ()) -> ParsedAction:
        """Parse a decoded reply, without its reasoning; a reply that ended inside its reasoning is malformed.

        Args:
            text: The decoded reply.
            opened: Whether the prompt already opened the reasoning
                (:attr:`hero_pl.chat.template.ChatTemplate.opens_reasoning`).
            tools: Schemas of the environment's tools, as :meth:`describe` gets them.

        Example:
            >>> PlainText().parse("<think>The red one?</think>click[red]").action
            'click[red]'
            >>> PlainText().parse("<think>The red one, so I").malformed
            'The reply ended inside its reasoning, before any action.'
        """
        if inside_reasoning(text, opened):
            return ParsedAction("", UNFINISHED)
        reply = without_thinking(text).strip()
        return self.read(reply, tools) if "tools" in inspect.signature(self.read).parameters else self.read(reply)

    def fitted(self, template: ChatTemplate) -> ActionParser:
        """This parser for the model of a chat template; a format that is told to the model is the same for all."""
        return self

    @abstractmethod
    def read(self, reply: str, tools: Sequence[Mapping[str, Any]] = ()) -> ParsedAction:
        """Parse a reply without reasoning and without surrounding whitespace.

        Args:
            reply: The reply.
            tools: Schemas of the tools, for a format that does not say of which type a value is. A subclass without
                this argument is called with the reply alone.
        """

    def locate(self, reply: str) -> tuple[int, int] | None:
        """Find the action in a reply without reasoning; ``None`` if there is none.

        Returns:
            Start and end index.
        """
        return 0, len(reply)

    def markers(self, reply: str) -> Sequence[tuple[int, int]]:
        """Find the markers around the calls of a reply without reasoning; a tokenizer may have an id for each.

        Returns:
            Start and end index of each.
        """
        return ()

    def write(self, call: Mapping[str, Any]) -> str:
        """Format a tool call ``{"name": ..., "arguments": {...}}`` in this format."""
        return json.dumps(dict(call))

    def reply(self, action: str) -> str:
        """Format a canonical action as a whole reply; :meth:`parse` is the inverse.

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
    """The whole reply is the action; tools are not described (environments with text commands, small policies)."""

    def describe(
        self, system_prompt: str, tools: Sequence[Mapping[str, Any]]
    ) -> tuple[str, tuple[Mapping[str, Any], ...]]:
        """The system prompt, without tools."""
        return system_prompt, ()

    def read(self, reply: str, tools: Sequence[Mapping[str, Any]] = ()) -> ParsedAction:
        """The unchanged reply; an empty one is malformed.

        Example:
            >>> PlainText().parse(" click[red] ").action
            'click[red]'
        """
        return ParsedAction(reply) if reply else ParsedAction("", "The reply was empty.")

    def write(self, call: Mapping[str, Any]) -> str:
        """``name[argument]`` for calls with one argument, the format of WebShop; else JSON.

        Example:
            >>> PlainText().write({"name": "click", "arguments": {"element": "red"}})
            'click[red]'
        """
        arguments = call.get("arguments")
        if isinstance(arguments, Mapping) and len(arguments) == 1:
            return f"{call.get('name')}[{next(iter(arguments.values()))}]"
        return super().write(call)


class ToolCall(ActionParser):
    """A tool call in any of the common formats (:mod:`hero_pl.chat.calls`), or a plain reply.

    Calls are written as the chat template of the model writes them, else in the Hermes format,
    ``<tool_call>{"name": ..., "arguments": ...}</tool_call>``. Only the first call of a reply is executed, as in the
    agents of TauBench.
    """

    form = HERMES
    """How calls are written."""

    def fitted(self, template: ChatTemplate) -> ToolCall:
        """A copy that writes calls as the template does."""
        made = copy(self)
        made.form = template_form(template, [TOOL]) or HERMES
        return made

    def locate(self, reply: str) -> tuple[int, int] | None:
        """The first call with its markers; ``None`` for a plain reply.

        Example:
            >>> ToolCall().locate("Let me see. <tool_call>{}</tool_call> Done.")
            (12, 37)
        """
        calls = find_calls(reply)
        return (calls.start, calls.stop) if calls else None

    def markers(self, reply: str) -> Sequence[tuple[int, int]]:
        """The markers around complete calls, and what the template writes around them; in an argument they are text.

        Example:
            >>> ToolCall().markers('<tool_call>{"name": "say", "arguments": {"text": "</tool_call>"}}</tool_call>')
            [(0, 11), (65, 77)]
        """
        return [*call_markers(reply), *self.form.places(reply)]

    def write(self, call: Mapping[str, Any]) -> str:
        """The call in :attr:`form`; any other object stands between the markers of Hermes."""
        arguments = call.get("arguments")
        if set(call) == {"name", "arguments"} and isinstance(arguments, Mapping):
            return self.form.write(str(call["name"]), arguments)
        return f"<tool_call>\n{write_json(dict(call))}\n</tool_call>"

    def read(self, reply: str, tools: Sequence[Mapping[str, Any]] = ()) -> ParsedAction:
        """The first tool call; a reply without one is a message to the user.

        Example:
            >>> ToolCall().parse('<tool_call>{"name": "think", "arguments": {"thought": "x"}}</tool_call>').action
            '{"name": "think", "arguments": {"thought": "x"}}'
            >>> ToolCall().parse('{"name": "get_order", "parameters": {"order_id": "#W1"}}').action
            '{"name": "get_order", "arguments": {"order_id": "#W1"}}'
            >>> ToolCall().parse("Hello, who are you?").action
            'Hello, who are you?'
        """
        if calls := find_calls(reply, tools):
            return _parsed(calls)
        return ParsedAction(reply) if reply else ParsedAction("", "The reply was empty.")


class ReAct(ActionParser):
    """``Thought: ...`` then ``Action: ...``, where the action is a JSON call or a plain reply.

    ``Action:`` stands at the start of a line; only if no line begins so, anywhere in one. The last action is executed,
    as in the agents of TauBench. If the reply goes on with an observation, the model has invented it, and what follows
    is for another world: then it is the last action before the observation.
    """

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
        """Add the tools to the system prompt, so that any chat template works."""
        if not tools:
            return system_prompt + self.plain_instructions, ()
        return system_prompt + self.instructions.format(tools=json.dumps(list(tools))), ()

    def locate(self, reply: str) -> tuple[int, int] | None:
        r"""The text from the last ``Action:`` to the end, or to an invented observation.

        Example:
            >>> ReAct().locate("Action: look\nObservation: a mug\nAction: take")
            (0, 12)
        """
        found = [match.end() - len("Action:") for match in _ACTION.finditer(reply)]
        found = found or [match.start() for match in re.finditer("Action:", reply)]
        if not found:
            return None
        invented = _INVENTED.search(reply, found[0])
        stop = len(reply[: invented.start()].rstrip()) if invented else len(reply)
        return max(start for start in found if start < stop), stop

    def reply(self, action: str) -> str:
        """The action after ``Action:``, without a thought.

        Example:
            >>> ReAct().reply("search[red mug]")
            'Action: search[red mug]'
        """
        return f"Action: {super().reply(action)}"

    def read(self, reply: str, tools: Sequence[Mapping[str, Any]] = ()) -> ParsedAction:
        r"""Parse the located text; ``Action Input:`` may give the arguments of the tool named there.

        Example:
            >>> ReAct().parse("Thought: search first.\nAction: search[red mug]").action
            'search[red mug]'
            >>> ReAct().parse('Thought: look.\nAction: find\nAction Input: {"text": "mug"}').action
            '{"name": "find", "arguments": {"text": "mug"}}'
        """
        located = self.locate(reply)
        if located is None:
            return ParsedAction("", "The reply has no line 'Action: ...'.")
        start, stop = located
        others = sum(match.end() != start + len("Action:") for match in _ACTION.finditer(reply))
        parsed = self._action(reply[start:stop].removeprefix("Action:"), tools)
        return replace(parsed, further_calls=parsed.further_calls + others)

    def _action(self, tail: str, tools: Sequence[Mapping[str, Any]]) -> ParsedAction:
        """Parse the text after ``Action:``."""
        if given := _INPUT.search(tail):
            return _parsed(read_calls(f"{tail[: given.start(1)].strip()} {tail[given.end() :]}", tools))
        action = tail.strip()
        if action.startswith("`"):
            action = action.removeprefix("```json").strip("`").strip()
        if calls := find_calls(action, tools):
            return _parsed(calls)
        return ParsedAction(action) if action else ParsedAction("", "Nothing follows 'Action:'.")


def _parsed(calls: Calls) -> ParsedAction:
    """The first call in canonical form, or the reason why it cannot be parsed."""
    if calls.arguments is None:
        return ParsedAction("", calls.reason)
    return ParsedAction(calls.canonical, further_calls=calls.further)
