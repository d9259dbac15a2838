"""Chat template as ids: prompts grow by appending, hints are spliced in, nothing is encoded twice.

The tokenizer's own Jinja template is rendered with *slots* in place of all text from outside; the pieces between the
slots are the template's glue. Glue and outside text are then encoded apart (:mod:`hero_pl.chat.encode`). A decision
context therefore is ``body + generation prompt``, the next one is ``body + generation prompt + sampled ids + glue``,
and the teacher's is ``body + hint message + generation prompt``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from hero_pl.chat.encode import Encoder, has_surrogate
from hero_pl.errors import ConfigError, PolicyError, TokenAlignmentError
from hero_pl.types import HintPosition, Message, Role

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The widespread ChatML layout, for tokenizers that the project makes itself."""

CHATML_TOKENS = ("<|pad|>", "<|im_start|>", "<|im_end|>")
"""Control tokens of such a tokenizer: padding, start and end of a message."""

TOOL_PREFIX = "Tool result: "
"""Precedes a tool's answer where the template has no tool role."""

_SLOT = "HEROSLOT{}TOLSOREH"


class ChatTemplate:
    """Renders conversations of one tokenizer to ids.

    Args:
        tokenizer: With a chat template and an end-of-turn token.
        hint_position: Where :meth:`insert_hint` puts the hint. ``before_action``: as its own user message before the
            generation prompt (keeps the context a verbatim prefix). ``last_message``: at the end of the last
            message, for templates that refuse two user messages in a row. ``system``: as a leading system message.
            ``think_prefix``: inside a reasoning block after the generation prompt (experimental). ``after_draft``: as
            the user's answer to a first draft, the action that was taken.

    Raises:
        PolicyError: No chat template, no end-of-turn token, or a template that does not append.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, hint_position: HintPosition = "before_action") -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise PolicyError(
                f"The tokenizer of {tokenizer.name_or_path!r} has no chat template, so prompts cannot be built. "
                "Take an instruct checkpoint, or put a chat_template.jinja beside tokenizer.json."
            )
        if hint_position not in get_args(HintPosition):
            raise ConfigError(f"hint_position={hint_position!r}: expected one of {', '.join(get_args(HintPosition))}.")
        if tokenizer.eos_token_id is None:
            raise PolicyError(
                f"The tokenizer of {tokenizer.name_or_path!r} has no end-of-turn token: set eos_token, or generation "
                "would never stop."
            )
        self.tokenizer = tokenizer
        self.hint_position = hint_position
        self.encoder = Encoder(tokenizer)
        user, assistant = Message("user", "a"), Message("assistant", "b")
        self._generation_text = self._suffix([user], [user], generate=True)
        self.generation_ids = self.encoder.encode_template(self._generation_text)
        if not self.generation_ids:
            raise PolicyError(
                f"The chat template of {tokenizer.name_or_path!r} ignores add_generation_prompt: student and teacher "
                "would not know where an action starts. Use a template that renders a generation prompt."
            )
        self.has_tool_role = self._accepts([user, assistant, Message("tool", "c")])
        self.has_system_role = self._accepts([Message("system", "s"), user])
        self._answer: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._hint_glue: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._closings: dict[str, tuple[int, ...]] = {}
        self.end_ids = self._end_ids()

    # -- building contexts -------------------------------------------------------------------------------------

    def first_prompt(
        self, system_prompt: str, first_observation: str, role: Role = "user", tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[int, ...]:
        """The first decision context: system prompt, tool schemas, first observation, generation prompt."""
        opening = self._observation_message(first_observation, role)
        messages = [Message("system", system_prompt), opening] if system_prompt else [opening]
        return self.conversation(messages, tools=tools)

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), generate: bool = True
    ) -> tuple[int, ...]:
        """Ids of a conversation; every content counts as text from outside."""
        if messages and messages[0].role == "system" and not self.has_system_role:
            merged = Message("user", f"{messages[0].content}\n\n{messages[1].content}") if len(messages) > 1 else None
            messages = [merged, *messages[2:]] if merged else [Message("user", messages[0].content)]
        ids: list[int] = []
        for text, is_outside in self._pieces(messages, tools, generate):
            ids += self.encoder.encode_untrusted(text) if is_outside else self.encoder.encode_template(text)
        return tuple(ids)

    def next_prompt(
        self, prompt_ids: Sequence[int], action_ids: Sequence[int], observation: str, role: Role = "user"
    ) -> tuple[int, ...]:
        """The next decision context: ``prompt_ids`` and ``action_ids`` verbatim, then the observation.

        An end-of-turn id that the policy did not sample (a length stop) is supplied by the glue; it is context, never
        part of an action.
        """
        message = self._observation_message(observation, role)
        before, after = self._answer_glue(message.role)
        content = self.encoder.encode_untrusted(message.content)
        return (*prompt_ids, *action_ids, *_without_overlap(action_ids, before, self.end_ids), *content, *after)

    def insert_hint(
        self, prompt_ids: Sequence[int], hint: str, position: HintPosition | None = None, draft: Sequence[int] = ()
    ) -> tuple[int, ...]:
        """The teacher's context: the decision context with the hint in it; unchanged if it is empty.

        Args:
            prompt_ids: A decision context.
            hint: Text from outside.
            position: Where it goes; default: the template's ``hint_position``.
            draft: Action ids that ``after_draft`` shows as the assistant's first try.

        Raises:
            TokenAlignmentError: ``prompt_ids`` does not end with the generation prompt, or there is no draft.
        """
        prompt_ids = tuple(prompt_ids)
        if not hint:
            return prompt_ids
        generation = self.generation_ids
        if prompt_ids[-len(generation) :] != generation:
            raise TokenAlignmentError(
                f"The decision context ends with {prompt_ids[-len(generation) :]}, not with the generation prompt "
                f"{generation}. A hint can be spliced only into contexts that this chat template built."
            )
        body = prompt_ids[: len(prompt_ids) - len(generation)]
        text = self.encoder.encode_untrusted(hint)
        position = position or self.hint_position
        if position == "before_action":
            before, after = self._hint_message_glue()
            return (*body, *before, *text, *after, *generation)
        if position == "system":
            start = self._leading_bos(prompt_ids)
            system = self.conversation([Message("system", hint)], generate=False)
            return (*prompt_ids[:start], *system[self._leading_bos(system) :], *prompt_ids[start:])
        if position == "think_prefix":
            return (
                *prompt_ids,
                *self.encoder.encode_template("<think>\n"),
                *text,
                *self.encoder.encode_template("\n</think>\n\n"),
            )
        if position == "after_draft":
            if not draft:
                raise TokenAlignmentError("hint_position: after_draft needs the ids of an action as the draft.")
            return self.next_prompt(prompt_ids, draft, hint)
        closing = self._last_closing(body)
        cut = len(body) - len(closing)
        return (*body[:cut], *self.encoder.encode_untrusted("\n\n"), *text, *closing, *generation)

    # -- glue --------------------------------------------------------------------------------------------------

    def _observation_message(self, observation: str, role: Role) -> Message:
        if role == "tool" and not self.has_tool_role:
            return Message("user", TOOL_PREFIX + observation)
        return Message(role, observation)

    def _answer_glue(self, role: Role) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Glue between an action and the observation after it, and from there to the next action."""
        if role not in self._answer:
            messages = [Message("user", "a"), Message("assistant", _SLOT.format(0)), Message(role, _SLOT.format(1))]
            rendered = self._render(messages, (), True)
            after_action = rendered.partition(_SLOT.format(0))[2]
            before, found, after = after_action.partition(_SLOT.format(1))
            if not found or not after.endswith(self._generation_text):
                raise PolicyError(
                    f"The chat template of {self.tokenizer.name_or_path!r} does not append a {role} message after an "
                    "assistant message; multi-turn contexts need a template that does."
                )
            self._answer[role] = (self.encoder.encode_template(before), self.encoder.encode_template(after))
        return self._answer[role]

    def _hint_message_glue(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self._hint_glue is None:
            first, hint = Message("user", "a"), Message("user", _SLOT.format(0))
            if not self._accepts([first, hint]):
                raise PolicyError(
                    f"The chat template of {self.tokenizer.name_or_path!r} refuses two user messages in a row, so the "
                    "hint cannot be a message of its own. Set hint_position: last_message."
                )
            before, _, after = self._suffix([first], [first, hint]).partition(_SLOT.format(0))
            self._hint_glue = (self.encoder.encode_template(before), self.encoder.encode_template(after))
        return self._hint_glue

    def _last_closing(self, body: tuple[int, ...]) -> tuple[int, ...]:
        """The ids that close the last message of ``body``."""
        if not self._closings:
            roles: list[Role] = ["tool", "user"] if self.has_tool_role else ["user"]
            for role in roles:
                messages = [Message("user", "a"), Message("assistant", "b"), Message(role, _SLOT.format(0))]
                text = self._render(messages, (), False).partition(_SLOT.format(0))[2]
                self._closings[role] = self.encoder.encode_template(text)
        for closing in sorted(self._closings.values(), key=len, reverse=True):
            if closing and body[-len(closing) :] == closing:
                return closing
        raise TokenAlignmentError(
            "hint_position: last_message needs a context whose last message has a closing token; the chat template of "
            f"{self.tokenizer.name_or_path!r} writes none. Set hint_position: before_action."
        )

    def _leading_bos(self, ids: Sequence[int]) -> int:
        return int(bool(ids) and ids[0] == self.tokenizer.bos_token_id)

    def _end_ids(self) -> frozenset[int]:
        """End-of-turn ids: the tokenizer's, and the control token that the template writes after an action."""
        ends = {int(self.tokenizer.eos_token_id)}
        before, _ = self._answer_glue("user")
        if before and before[0] in self.encoder.control_ids:
            ends.add(before[0])
        return frozenset(ends)

    # -- rendering ---------------------------------------------------------------------------------------------

    def _pieces(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], generate: bool
    ) -> list[tuple[str, bool]]:
        """``(text, is_outside)`` pieces of the rendered conversation, in order."""
        contents: list[str] = []

        def slot(text: str) -> str:
            contents.append(text)
            return _SLOT.format(len(contents) - 1)

        slotted = [Message(message.role, slot(message.content)) for message in messages]
        safe_tools = [self._slot_tool(tool, slot) for tool in tools]
        rest = self._render(slotted, safe_tools, generate)
        pieces: list[tuple[str, bool]] = []
        while _SLOT[:8] in rest:
            glue, _, rest = rest.partition(_SLOT[:8])
            number, _, rest = rest.partition(_SLOT[-8:])
            pieces += [(glue, False), (contents[int(number)], True)]
        return [*pieces, (rest, False)]

    def _slot_tool(self, value: Any, slot: Any) -> Any:
        """Tool schemas come from outside too: strings that cannot be glue go through a slot."""
        if isinstance(value, Mapping):
            return {self._slot_tool(key, slot): self._slot_tool(item, slot) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._slot_tool(item, slot) for item in value]
        if isinstance(value, str) and (
            self.encoder.mentions_control(value) or _SLOT[:8] in value or has_surrogate(value)
        ):
            return slot(json.dumps(value, ensure_ascii=False)[1:-1])
        return value

    def _render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], generate: bool) -> str:
        rendered = self.tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            tools=[dict(tool) for tool in tools] or None,
            add_generation_prompt=generate,
            tokenize=False,
        )
        return str(rendered)

    def _accepts(self, messages: list[Message]) -> bool:
        """Whether the template renders every one of these messages."""
        from jinja2 import TemplateError

        slotted = [Message(m.role, _SLOT.format(i)) for i, m in enumerate(messages)]
        try:
            text = self._render(slotted, (), False)
        except TemplateError:
            return False
        return all(message.content in text for message in slotted)

    def _suffix(self, shorter: list[Message], longer: list[Message], generate: bool = False) -> str:
        head, whole = self._render(shorter, (), False), self._render(longer, (), generate)
        if not whole.startswith(head):
            raise PolicyError(
                f"The chat template of {self.tokenizer.name_or_path!r} rewrites earlier messages when a later one "
                "arrives; a hint cannot be spliced in. Use a template that only appends."
            )
        return whole[len(head) :]


def _without_overlap(action_ids: Sequence[int], glue: tuple[int, ...], end_ids: frozenset[int]) -> tuple[int, ...]:
    """Glue after an action, less the end-of-turn id that the policy has already sampled."""
    if action_ids and glue and action_ids[-1] in end_ids and glue[0] in end_ids:
        return glue[1:]
    return glue
