"""Chat template as ids: prompts grow by appending, hints are inserted, and sampled ids are never re-encoded.

The tokenizer's own Jinja template is rendered with the real values, and outside text is marked in the result
(:mod:`hero_pl.chat.render`), so that control tokens are recognized only where the template wrote them
(:mod:`hero_pl.chat.encode`). A decision context is ``body + generation prompt``, the next one is ``body + generation
prompt + sampled ids + observation message``, and the teacher's is ``body + hint message + generation prompt``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, get_args

from hero_pl.chat import traits
from hero_pl.chat.encode import Encoder
from hero_pl.chat.reasoning import ReasoningMode, inside_reasoning, reasoning_pair
from hero_pl.chat.render import Rendered, Renderer
from hero_pl.errors import ConfigError, PolicyError, TokenAlignmentError
from hero_pl.types import HintPosition, Message, Role

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The common ChatML layout, for tokenizers created by this project."""

CHATML_TOKENS = ("<|pad|>", "<|im_start|>", "<|im_end|>")
"""Control tokens of such a tokenizer: padding, start and end of a message."""

TOOL_PREFIX = "Tool result: "
"""Prefix of a tool's result if the template has no tool role."""

KEPT_HINTS = 1024
"""Hints whose ids are kept: one stands in the teacher's rows, in those of gates and scaffolds, and in the probe."""

REPLY = "HEROREPLYOREH"
"""Placeholder for a sampled reply while the template is rendered."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a decision context ends after its last message."""

    closing: tuple[int, ...] | None
    """Ids after the content of the last message; ``None`` if unknown."""
    generation: tuple[int, ...]

    def ends(self, ids: tuple[int, ...]) -> bool:
        whole = (*(self.closing or ()), *self.generation)
        return bool(whole) and ids[-len(whole) :] == whole


class ChatTemplate:
    """Renders conversations of one tokenizer to ids.

    Args:
        tokenizer: Tokenizer with a chat template and an end-of-turn token.
        hint_position: Where :meth:`insert_hint` inserts the hint. ``before_action``: as its own user message before the
            generation prompt (the context stays an unchanged prefix). ``last_message``: at the end of the last
            message, for templates that refuse two user messages in a row. ``system``: as a leading system message.
            ``think_prefix``: inside a reasoning block after the generation prompt (experimental). ``after_draft``: as
            the user's reply to a first draft, which is the sampled action.
        template_args: Values for variables of the template, for example ``enable_thinking: false``; ``today``
            (``YYYY-MM-DD``) sets the date, by default 2024-07-26.
        end_ids: Further ids that end a reply (from the model's generation settings); only control tokens are used,
            because unedited model configurations contain arbitrary ids.
        reasoning: How later prompts contain earlier reasoning: ``keep``, ``strip`` or ``refuse``
            (:mod:`hero_pl.chat.history`).
        with_tools: Whether the template shows the tools. A tokenizer with the templates ``default`` and ``tool_use``
            takes the second then, for all prompts.

    Raises:
        PolicyError: There is no chat template or no end-of-turn token, or the template cannot be used.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        hint_position: HintPosition = "before_action",
        template_args: Mapping[str, Any] | None = None,
        end_ids: Collection[int] = (),
        reasoning: ReasoningMode = "keep",
        with_tools: bool = False,
    ) -> None:
        _check(tokenizer, hint_position, reasoning)
        self.tokenizer, self.hint_position, self.reasoning = tokenizer, hint_position, reasoning
        source = traits.template_source(tokenizer, with_tools)
        self.encoder = Encoder(tokenizer, source)
        self.renderer = Renderer(tokenizer, self.encoder, source, template_args)
        self.renderer.unasked = traits.unasked_prompt(self.renderer)
        user, assistant = Message("user", "a"), Message("assistant", "b")
        self.generation_text = self._suffix([user], [user], generate=True)
        self._check_generation_prompt()
        self.generation_ids = self._generation_ids()
        self.opens_reasoning = inside_reasoning(self.generation_text)
        """Whether the generation prompt opens the reasoning."""
        self.reasoning_pair = reasoning_pair(source)
        self.has_tool_role = self.renderer.accepts([user, assistant, Message("tool", "c")])
        self.has_system_role = self.renderer.accepts([Message("system", "s"), user])
        self.end_id = self._end_id()
        """The id that ends a reply."""
        self.end_ids = self.encoder.end_ids = self._end_ids(end_ids)
        self._hint_ids = lru_cache(KEPT_HINTS)(self._encode_hint)
        self._endings: list[_Ending] = []
        self._shown: tuple[Mapping[str, Any], ...] = ()
        self.drops_reasoning = traits.drops_reasoning(self.renderer, self.reasoning_pair)
        """Whether the template leaves out the reasoning of earlier turns."""
        self.moves_prompt = traits.moves_prompt(self.renderer, self.opening("s", "a"))
        """Whether the template moves the system prompt or the tools as the conversation grows."""
        if reasoning == "refuse":
            traits.refuse_reasoning(self.renderer, self.reasoning_pair, self.generation_text)

    @property
    def rewrites_history(self) -> bool:
        """Whether later prompts are rendered again instead of appended to (:mod:`hero_pl.chat.history`)."""
        return self.moves_prompt or (self.reasoning == "strip" and self.drops_reasoning)

    # -- building contexts -------------------------------------------------------------------------------------

    def first_prompt(
        self, system_prompt: str, first_observation: str, role: Role = "user", tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[int, ...]:
        """The first decision context: system prompt, tool schemas, first observation, generation prompt.

        Raises:
            PolicyError: The template does not show the tools.
        """
        if tools and tuple(tools) != self._shown:
            traits.check_tools(self.renderer, self.opening("s", "a"), tools)
            self._shown = tuple(tools)
        return self.conversation(self.opening(system_prompt, first_observation, role), tools=tools)

    def opening(self, system_prompt: str, first_observation: str, role: Role = "user") -> list[Message]:
        """The messages of a first decision context."""
        message = self.observation_message(first_observation, role)
        return self._acceptable([Message("system", system_prompt), message] if system_prompt else [message])

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), generate: bool = True
    ) -> tuple[int, ...]:
        """Ids of a conversation; all contents count as outside text."""
        rendered = self.renderer.render(self._acceptable(messages), tools, generate)
        return self.encoder.encode_rendered(rendered.text, rendered.marked)

    def next_prompt(
        self, prompt_ids: Sequence[int], action_ids: Sequence[int], observation: str, role: Role = "user"
    ) -> tuple[int, ...]:
        """The next decision context: ``prompt_ids`` and ``action_ids`` verbatim, then the observation.

        If the policy did not sample an end-of-turn id (the reply reached the length limit), one is added; it is part of
        the context, never of an action.

        Raises:
            PolicyError: The template does not append such a message.
        """
        return (*prompt_ids, *action_ids, *self._answer(action_ids, observation, role))

    def _answer(self, action_ids: Sequence[int], observation: str, role: Role) -> tuple[int, ...]:
        """What follows a reply: its end, the observation, the generation prompt."""
        message = self.observation_message(observation, role)
        rest = self.renderer.render([Message("user", "a"), Message("assistant", REPLY), message], (), True).after(REPLY)
        if rest is None or not rest.text:
            raise PolicyError(
                f"The chat template of {self.tokenizer.name_or_path!r} does not append a {message.role} message after "
                "an assistant message. Use a template that does."
            )
        return self.encode_rest(action_ids, rest)

    def encode_rest(self, action_ids: Sequence[int], rest: Rendered) -> tuple[int, ...]:
        """Ids of the text after a reply, without the end-of-turn token if the policy has sampled one."""
        end = self._end_of_turn(rest.text)
        if action_ids and action_ids[-1] in self.end_ids and end:
            rest = rest.tail(end)
        return self.encoder.encode_rendered(rest.text, rest.marked, after=action_ids[-1] if action_ids else -1)

    def insert_hint(
        self, prompt_ids: Sequence[int], hint: str, position: HintPosition | None = None, draft: Sequence[int] = ()
    ) -> tuple[int, ...]:
        """The teacher's context: the decision context with the hint inserted; unchanged for an empty hint.

        Args:
            prompt_ids: A decision context.
            hint: Text of the hint, encoded as outside text.
            position: Where to insert it; default: the template's ``hint_position``.
            draft: Action ids that ``after_draft`` shows as the assistant's first draft.

        Raises:
            TokenAlignmentError: ``prompt_ids`` does not end like a decision context of this template, or the draft is
                missing.
            PolicyError: The template cannot show a hint there.
        """
        prompt_ids = tuple(prompt_ids)
        if not hint:
            return prompt_ids
        ending = self._ending(prompt_ids)
        body = prompt_ids[: len(prompt_ids) - len(ending.generation)]
        position = position or self.hint_position
        if position == "before_action":
            return (*body, *self._hint_after(body, hint, position), *self.generation_ids)
        if position == "system":
            start = self._leading_bos(prompt_ids)
            system = self._hint_after((), hint, position)
            return (*prompt_ids[:start], *system[self._leading_bos(system) :], *prompt_ids[start:])
        if position == "think_prefix":
            return (*prompt_ids, *self._hint_after(prompt_ids, hint, position))
        if position == "after_draft":
            if not draft:
                raise TokenAlignmentError("hint_position: after_draft needs the ids of an action as draft. Pass them.")
            return (*prompt_ids, *draft, *self._hint_after(draft, hint, position))
        if ending.closing is None:
            raise TokenAlignmentError(
                "hint_position: last_message: cannot find the end of the last message in the chat template of "
                f"{self.tokenizer.name_or_path!r}. Set hint_position: before_action."
            )
        cut = len(body) - len(ending.closing)
        return (*body[:cut], *self._hint_after(body[:cut], hint, position), *ending.closing, *ending.generation)

    def _hint_after(self, before: Sequence[int], hint: str, position: HintPosition) -> tuple[int, ...]:
        """The ids of a hint and of what the template puts around it; made once for all contexts that end alike."""
        last = before[-1] if before else None
        return self._hint_ids(hint, position, last if last is None or last in self.encoder.control_ids else -1)

    def _encode_hint(self, hint: str, position: HintPosition, last: int | None) -> tuple[int, ...]:
        if position == "before_action":
            return self._hint_message(hint, last)
        if position == "system":
            return self._system_hint(hint)
        if position == "after_draft":
            return self._answer(() if last is None else (last,), hint, "user")
        text = self.encoder.encode_untrusted(hint)
        if position == "last_message":
            return (*self.encoder.encode_untrusted("\n\n"), *text)
        opened, closed = self.reasoning_pair
        opening = "" if self.opens_reasoning else f"{opened}\n"
        return (
            *self.encoder.encode_template(opening, after=last),
            *text,
            *self.encoder.encode_template(f"\n{closed}\n\n", after=-1),
        )

    # -- messages ----------------------------------------------------------------------------------------------

    def observation_message(self, observation: str, role: Role) -> Message:
        """An observation as a message with a role that the template has."""
        if role == "tool" and not self.has_tool_role:
            return Message("user", TOOL_PREFIX + observation)
        return Message(role, observation)

    def _acceptable(self, messages: Sequence[Message]) -> list[Message]:
        """The messages; without a system role the system prompt is moved into the first user message."""
        if messages and messages[0].role == "system" and not self.has_system_role:
            merged = "\n\n".join(message.content for message in messages[:2])
            return [Message("user", merged), *messages[2:]]
        return list(messages)

    # -- text between messages ---------------------------------------------------------------------------------

    def _hint_message(self, hint: str, last: int | None) -> tuple[int, ...]:
        first, message = Message("user", "a"), Message("user", hint)
        if not self.renderer.accepts([first, Message("user", "b")]):
            raise PolicyError(
                f"The chat template of {self.tokenizer.name_or_path!r} refuses two user messages in a row, so the "
                "hint cannot be a separate message. Set hint_position: last_message."
            )
        head = self.renderer.plain([first])
        self._suffix([first], [first, Message("user", "b")])
        rest = self.renderer.render([first, message], (), False).tail(len(head))
        return self.encoder.encode_rendered(rest.text, rest.marked, after=last)

    def _system_hint(self, hint: str) -> tuple[int, ...]:
        if self.has_system_role and not self.renderer.accepts([Message("system", REPLY)]):
            raise PolicyError(
                f"The chat template of {self.tokenizer.name_or_path!r} shows a system message only together with "
                "others, so the hint cannot be one. Set hint_position: last_message."
            )
        return self.conversation([Message("system", hint)], generate=False)

    def _ending(self, prompt_ids: tuple[int, ...]) -> _Ending:
        """The ending of this context: the longest match of the endings that the template writes."""
        if not self._endings:
            self._endings = self._find_endings()
        for ending in self._endings:
            if ending.ends(prompt_ids):
                return ending
        raise TokenAlignmentError(
            f"The decision context ends with {prompt_ids[-8:]}, not with the generation prompt "
            f"{self.generation_ids}. A hint can be inserted only into contexts that this chat template built."
        )

    def _find_endings(self) -> list[_Ending]:
        roles: list[Role] = ["tool", "user"] if self.has_tool_role else ["user"]
        endings = [_Ending(None, self.generation_ids)]
        for role in roles:
            messages = [Message("user", "a"), Message("assistant", "b"), Message(role, REPLY)]
            whole = self.renderer.plain(messages, generate=True).partition(REPLY)[2]
            closing = self.renderer.plain(messages).partition(REPLY)[2]
            generation = self.generation_ids if whole == closing + self.generation_text else ()
            endings.append(_Ending(self.encoder.encode_template(closing, after=-1), generation))
        return sorted(endings, key=lambda e: -1 if e.closing is None else len(e.closing), reverse=True)

    @cached_property
    def before_reply(self) -> int:
        """The id before a reply: the last one of a decision context."""
        return self.conversation([Message("user", "a")])[-1]

    def _leading_bos(self, ids: Sequence[int]) -> int:
        """1 if ``ids`` begin with BOS, and BOS begins texts; where it begins every message, it is part of that."""
        return int(self.bos_begins_texts and bool(ids) and ids[0] == self.tokenizer.bos_token_id)

    @cached_property
    def bos_begins_texts(self) -> bool:
        """Whether the template writes BOS once, before the first message."""
        messages = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
        bos = str(self.tokenizer.bos_token or "")
        return bool(bos) and self.renderer.plain(messages).count(bos) == 1

    def _generation_ids(self) -> tuple[int, ...]:
        """Ids of the generation prompt."""
        user = [Message("user", "a")]
        body, whole = (self.encoder.encode_template(self.renderer.plain(user, generate=on)) for on in (False, True))
        if whole[: len(body)] == body:
            return whole[len(body) :]
        return self.encoder.encode_template(self.generation_text, after=-1)

    def _check_generation_prompt(self) -> None:
        """Accept a template without a generation prompt only if it writes nothing before a reply."""
        if self.generation_text:
            return
        user = Message("user", "a")
        header = self._suffix([user], [user, Message("assistant", REPLY)]).partition(REPLY)[0]
        if header.strip():
            raise PolicyError(
                f"The chat template of {self.tokenizer.name_or_path!r} ignores add_generation_prompt, but begins a "
                f"reply with {header!r}, so the start of an action is not defined. End the template "
                "with {% if add_generation_prompt %}" + header + "{% endif %}."
            )

    def _end_ids(self, declared: Collection[int]) -> frozenset[int]:
        """End-of-turn ids: those of tokenizer and model, and the control token that the template writes after a reply.

        Only control tokens are used, because unedited configurations of transformers contain arbitrary ids (such as 2).
        """
        ends = {int(self.tokenizer.eos_token_id), self.end_id}
        return frozenset(ends | (set(declared) & self.encoder.control_ids))

    def _end_id(self) -> int:
        """The control token that the template writes after a reply; the tokenizer's own if it writes none there."""
        messages = [Message("user", "a"), Message("assistant", REPLY), Message("user", "b")]
        after = self.renderer.plain(messages, generate=True).partition(REPLY)[2].lstrip()
        written = (i for text, i in self.encoder.control.items() if after.startswith(text))
        return next(written, int(self.tokenizer.eos_token_id))

    def _end_of_turn(self, text: str) -> int:
        """Index after a leading end-of-turn token (and the spaces before it); 0 if there is none."""
        bare = text.lstrip()
        for surface, i in self.encoder.control.items():
            if i in self.end_ids and bare.startswith(surface):
                return len(text) - len(bare) + len(surface)
        return 0

    def _suffix(self, shorter: list[Message], longer: list[Message], generate: bool = False) -> str:
        """The text that the template adds when ``shorter`` is extended to ``longer``."""
        head, whole = self.renderer.plain(shorter), self.renderer.plain(longer, generate=generate)
        if not whole.startswith(head):
            raise PolicyError(
                f"The chat template of {self.tokenizer.name_or_path!r} rewrites earlier messages when a later one "
                "is added, so a hint cannot be inserted. Use a template that only appends."
            )
        return whole[len(head) :]


def _check(tokenizer: PreTrainedTokenizerBase, hint_position: str, reasoning: str) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise PolicyError(
            f"The tokenizer of {tokenizer.name_or_path!r} has no chat template, so prompts cannot be built. "
            "Use an instruct checkpoint, or add a chat_template.jinja next to tokenizer.json."
        )
    if hint_position not in get_args(HintPosition):
        raise ConfigError(f"hint_position={hint_position!r}: expected one of {', '.join(get_args(HintPosition))}.")
    if reasoning not in get_args(ReasoningMode):
        raise ConfigError(f"reasoning={reasoning!r}: expected one of {', '.join(get_args(ReasoningMode))}.")
    if tokenizer.eos_token_id is None:
        raise PolicyError(
            f"The tokenizer of {tokenizer.name_or_path!r} has no end-of-turn token, so generation would never stop. "
            "Set its eos_token."
        )
