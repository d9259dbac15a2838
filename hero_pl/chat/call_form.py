"""How tool calls are written: in the form of the model's own chat template where that is known, else as Hermes does.

Nobody samples a label, a corrected action in a hint, or the reply of a demonstration. What such a text says about the
model depends on its form: a reply in a form that the model never writes is improbable whatever it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hero_pl.chat import traits
from hero_pl.chat.calls import find_calls
from hero_pl.chat.encode import has_surrogate
from hero_pl.chat.reasoning import without_thinking

if TYPE_CHECKING:
    from hero_pl.chat.template import ChatTemplate

_OTHER: Mapping[str, Any] = {"name": "otherhero", "arguments": {"x": "it's <b>", "n": "7"}}
"""A second call, to see whether a form holds for more than the first."""

_JSON = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class CallForm:
    """The text around the name of a tool and around its arguments, which are JSON."""

    before: str
    between: str
    after: str

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The call in this form.

        Example:
            >>> CallForm('{"name": "', '", "parameters": ', "}").write("find", {"id": 3})
            '{"name": "find", "parameters": {"id": 3}}'
        """
        if self.before.endswith('"'):
            name = write_json(name)[1:-1]
        return f"{self.before}{name}{self.between}{write_json(arguments)}{self.after}"

    def places(self, reply: str) -> Iterator[tuple[int, int]]:
        """Start and end index of what this form writes itself around the complete calls of a reply.

        Example:
            >>> list(CallForm("<call>", "|", "</call>").places('<call>say|{"x": "</call>"}</call>'))
            [(0, 6), (9, 10), (26, 33)]
        """
        begin = re.compile(f"{re.escape(self.before)}(?P<name>.*?){re.escape(self.between)}", re.DOTALL)
        stop = 0
        while match := begin.search(reply, stop):
            try:
                _, end = _JSON.raw_decode(reply, match.end())
            except (ValueError, RecursionError):
                return
            stop = end + len(self.after)
            if not reply.startswith(self.after, end):
                return
            yield match.start(), match.start("name")
            yield match.end("name"), match.end()
            yield end, stop


HERMES = CallForm('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>")
"""The form of Hermes and Qwen models."""


def write_json(value: Any) -> str:
    """JSON with the characters that chat templates write; escaped if a tokenizer cannot encode them."""
    written = json.dumps(value, ensure_ascii=False)
    return json.dumps(value) if has_surrogate(written) else written


def template_form(template: ChatTemplate, tools: Sequence[Mapping[str, Any]]) -> CallForm | None:
    """The form in which a chat template writes the calls of its model; without the id that some of them add.

    Returns:
        ``None`` if the template writes no calls, writes no JSON, or writes what :func:`hero_pl.chat.calls.find_calls`
        does not read.
    """
    form = _around(_text(template, tools, traits.CALL), traits.CALL["name"], traits.CALL["arguments"])
    if form is None or form.write(**_OTHER) != (second := _text(template, tools, _OTHER)):
        return None
    calls = find_calls(second)
    whole = calls is not None and calls.name == _OTHER["name"] and calls.arguments == _OTHER["arguments"]
    return form if whole else None


def _text(template: ChatTemplate, tools: Sequence[Mapping[str, Any]], call: Mapping[str, Any]) -> str:
    """A call as the template writes it, up to the token that ends a reply."""
    ids = traits.written_call(template.renderer, tools, call)
    stop = next((i for i, one in enumerate(ids) if one in template.end_ids), len(ids))
    text = without_thinking(template.encoder.spell(ids[:stop])).strip()
    return "" if traits.RESULT in text else traits.without_call_id(text)  # without an end before it is not known


def _around(text: str, name: str, arguments: Mapping[str, Any]) -> CallForm | None:
    before, _, rest = text.partition(name)
    start = rest.find("{")
    try:
        value, stop = _JSON.raw_decode(rest, max(start, 0))
    except (ValueError, RecursionError):
        return None
    return CallForm(before, rest[:start], rest[stop:]) if value == arguments else None
