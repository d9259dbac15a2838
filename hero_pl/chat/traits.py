"""Properties of a chat template (tools, reasoning, history), found by rendering test conversations."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hero_pl.chat.render import Renderer
from hero_pl.errors import PolicyError
from hero_pl.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "herotool",
        "description": "Says herowords.",
        "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "A word."}}},
    },
}
"""A tool for test renderings; no environment has it."""

CALL: Mapping[str, Any] = {"name": "herotool", "arguments": {"x": "two words"}}
"""A call of it."""

CALL_ID = "call00001"
"""Its id: nine letters and digits, because some templates accept no other."""

RESULT = "HERORESULTOREH"
"""The result of it."""

_WORDS = "HEROWORDSOREH"


def template_source(tokenizer: PreTrainedTokenizerBase, with_tools: bool) -> str:
    """The source of the template that renders all prompts of a run; transformers would choose one for each prompt.

    Raises:
        PolicyError: The tokenizer has several templates, and none for this.
    """
    try:
        return str(tokenizer.get_chat_template(tools=[dict(TOOL)] if with_tools else None))
    except ValueError as error:
        raise PolicyError(
            f"The tokenizer of {tokenizer.name_or_path!r} has several chat templates and none named 'default'. Save it "
            "with one of them as chat_template."
        ) from error


def check_tools(renderer: Renderer, opening: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> None:
    """Check that the prompt contains the name and the description of every tool.

    Args:
        renderer: Renderer of the template.
        opening: Messages that the template accepts.
        tools: Schemas, with or without ``function`` around them.

    Raises:
        PolicyError: The template leaves out a name or a description.
    """
    bare, shown = renderer.plain(opening), _blanks_out(renderer.plain(opening, tools))
    for tool in tools:
        function = tool.get("function", tool)
        for word in ("name", "description"):
            text = str(function.get(word) or "") if isinstance(function, Mapping) else ""
            forms = {_blanks_out(form) for form in (text, json.dumps(text)[1:-1], _unicode(text))}
            if text.strip() and not any(shown.count(form) > _blanks_out(bare).count(form) for form in forms):
                raise PolicyError(
                    f"The chat template of {renderer.tokenizer.name_or_path!r} does not show the tools of the "
                    f"environment (the {word} {text[:60]!r} is not in the prompt). Set parser: ReAct, which describes "
                    "them in the system prompt, or use a template that supports tools."
                )


def written_call(
    renderer: Renderer, tools: Sequence[Mapping[str, Any]], call: Mapping[str, Any] = CALL
) -> tuple[int, ...]:
    """Ids with which the template writes a call as a reply, and what follows it; empty if it shows no calls.

    Args:
        renderer: Renderer of the template.
        tools: Schemas of the tools.
        call: Name and arguments, whose values are texts.
    """
    from jinja2 import TemplateError

    ask = {"role": "user", "content": _WORDS}
    # templates want the arguments as an object or as JSON, and the words beside a call as an empty text or as none
    as_json = json.dumps(call["arguments"])
    for role, arguments, words in itertools.product(("tool", "user"), (call["arguments"], as_json), ("", None)):
        result = {"role": role, "content": RESULT, "name": call["name"], "tool_call_id": CALL_ID}
        made = {"id": CALL_ID, "type": "function", "function": {"name": call["name"], "arguments": arguments}}
        reply = {"role": "assistant", "content": words, "tool_calls": [made]}
        try:
            asked = renderer.raw([ask], tools, generate=True).rpartition(_WORDS)[2]
            whole = renderer.raw([ask, reply, result], tools).rpartition(_WORDS)[2]
        except (TemplateError, TypeError, KeyError):
            continue
        before, ids = (renderer.encoder.encode_template(text, after=-1) for text in (asked, whole))
        pairs = enumerate(zip(before, ids, strict=False))
        ids = ids[next((i for i, (a, b) in pairs if a != b), len(before)) :]
        if all(word in renderer.encoder.spell(ids) for word in (call["name"], *call["arguments"].values())):
            return ids
    return ()


def without_call_id(text: str) -> str:
    """A written call without its id, which a model makes up anew for every call.

    Example:
        >>> without_call_id('[{"name": "herotool", "arguments": {}, "id": "call00001"}]')
        '[{"name": "herotool", "arguments": {}}]'
    """
    return text.replace(f', "id": "{CALL_ID}"', "")


def unasked_prompt(renderer: Renderer) -> str:
    """The generation prompt of a template that always writes it, even if not requested; empty for other templates.

    The text that opens the second of two user messages also opens the first; the text before it closes the first.
    """
    user, word = Message("user", _WORDS), f"{_WORDS}2"
    alone = renderer.plain([user])
    if alone != renderer.plain([user], generate=True) or not renderer.accepts([user, Message("user", word)]):
        return ""
    opening, _, end = alone.partition(_WORDS)
    between = renderer.plain([user, Message("user", word)]).partition(_WORDS)[2].partition(word)[0]
    first, second = (renderer.encoder.parts(text) for text in (opening, between))
    shared = next((i for i, (a, b) in enumerate(zip(first[::-1], second[::-1], strict=False)) if a != b), len(first))
    closing = "".join(second[: len(second) - shared])
    return end.removeprefix(closing) if closing and end.startswith(closing) else ""


def drops_reasoning(renderer: Renderer, pair: tuple[str, str]) -> bool:
    """Whether the reasoning of a reply is left out after the next user message."""
    reasoned = Message("assistant", f"{pair[0]}\n{_WORDS}\n{pair[1]}\n\nb")
    return _WORDS not in renderer.plain([Message("user", "a"), reasoned, Message("user", "c")])


def moves_prompt(renderer: Renderer, opening: Sequence[Message]) -> bool:
    """Whether a longer conversation does not begin with its first prompt (including system prompt and tools)."""
    longer = [*opening, Message("assistant", "b"), Message("user", "c")]
    return not renderer.plain(longer, [TOOL]).startswith(renderer.plain(opening, [TOOL]))


def refuse_reasoning(renderer: Renderer, pair: tuple[str, str], generation_text: str) -> None:
    """Refuse a model that reasons.

    Raises:
        PolicyError: The template supports reasoning, and its generation prompt does not switch it off.
    """
    if pair[1] in renderer.source and pair[1] not in generation_text:
        raise PolicyError(
            f"reasoning='refuse': the chat template of {renderer.tokenizer.name_or_path!r} belongs to a model that "
            f"reasons before it acts ({pair[1]!r}). Switch that off with template_args (often enable_thinking: "
            "false), or set reasoning: strip or keep."
        )


def _blanks_out(text: str) -> str:
    return "".join(text.split())


def _unicode(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
