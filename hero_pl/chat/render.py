"""Render a chat template so that every character of the result is known to be the template's or outside text.

Outside text is passed to the template as :class:`OutsideText`: a string *spelled* with private-use characters in place
of the characters of the tokenizer's control tokens, while all its methods act on the real text. So ``trim``, ``split``,
``length``, ``tojson``, slices and tests see real values, and the result still shows which text is the template's.
Converting the private-use characters back must give the plain rendering. If it does not (because a filter used the
spelling itself), the plain rendering is used if no control token in it can come from outside, else the marked one.
"""

from __future__ import annotations

import datetime
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hero_pl.chat.encode import scrub
from hero_pl.errors import ConfigError
from hero_pl.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hero_pl.chat.encode import Encoder

PRIVATE = 0xF0000
"""First character of the supplementary private-use planes."""

TODAY = "2024-07-26"
"""Date passed to templates, unless ``template_args`` gives another: a prompt must not depend on the clock."""

_KEPT = frozenset('"\\')
"""Characters that JSON escapes; like white space and control characters they are not replaced."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation."""

    text: str
    marked: str
    """Same length as ``text``; characters that differ from it come from outside."""

    def after(self, word: str) -> Rendered | None:
        """The text after the first ``word`` in the template's text, if there is one."""
        place = self.text.find(word)
        if place < 0:
            return None
        return Rendered(self.text[place + len(word) :], self.marked[place + len(word) :])

    def tail(self, start: int) -> Rendered:
        """The text from the index ``start`` on."""
        return Rendered(self.text[start:], self.marked[start:])


class OutsideText(str):
    """Spelled with private-use characters; all methods act on the real text."""

    __slots__ = ("letters", "real")

    real: str
    letters: Mapping[int, int]

    def __new__(cls, real: str, letters: Mapping[int, int]) -> OutsideText:
        """``letters`` maps code points to private-use ones."""
        self = super().__new__(cls, real.translate(letters))
        self.real, self.letters = real, letters
        return self

    def __str__(self) -> str:
        return self

    def __iter__(self) -> Iterator[str]:
        return iter([OutsideText(letter, self.letters) for letter in self.real])


def _acting(name: str) -> Callable[..., Any]:
    def method(self: OutsideText, *args: Any, **kwargs: Any) -> Any:
        plain = [arg.real if isinstance(arg, OutsideText) else arg for arg in args]
        return _spelled(getattr(self.real, name)(*plain, **kwargs), self.letters)

    return method


for _name in (
    *("__contains__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__getitem__", "__mul__"),
    *("strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "partition", "rpartition", "replace", "count"),
    *("lower", "upper", "title", "capitalize", "swapcase", "casefold", "removeprefix", "removesuffix", "startswith"),
    *("endswith", "find", "rfind", "index", "rindex", "isdigit", "isalpha", "isalnum", "isspace", "islower", "isupper"),
):
    setattr(OutsideText, _name, _acting(_name))


def _spelled(value: Any, letters: Mapping[int, int]) -> Any:
    """The same value, with all its strings as :class:`OutsideText`."""
    if isinstance(value, str):
        return OutsideText(value, letters)
    if isinstance(value, (list, tuple)):
        return type(value)(_spelled(item, letters) for item in value)
    if isinstance(value, Mapping):
        return {_spelled(key, letters): _spelled(item, letters) for key, item in value.items()}
    return value


class Renderer:
    """The chat template of one tokenizer.

    Args:
        tokenizer: Tokenizer with a chat template.
        encoder: Encoder of the tokenizer, with its control tokens.
        source: Source of the template.
        template_args: Values for variables of the template; ``today`` (``YYYY-MM-DD``) sets its date.

    Raises:
        ConfigError: ``today`` is no date.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encoder: Encoder,
        source: str,
        template_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer, self.encoder, self.source = tokenizer, encoder, source
        self.args = dict(template_args or {})
        self.day_was_given = "today" in self.args
        today = str(self.args.pop("today", TODAY))
        try:
            self.today = datetime.date.fromisoformat(today)
        except ValueError:
            raise ConfigError(f"template_args: {{today: {today}}}: expected a date, YYYY-MM-DD.") from None
        self.asked_the_date = False
        """Whether a template has used the date."""
        self._alphabet = sorted({c for text in encoder.control for c in text if _can_be_marked(c)})
        self._warned = False
        self.unasked = ""
        """Generation prompt that the template writes unasked; it is taken off where none is wanted."""

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), generate: bool = False
    ) -> Rendered:
        """Render messages and tools; everything except the roles counts as outside text.

        Raises:
            jinja2.TemplateError: The template does not accept the conversation.
        """
        contents = [scrub(message.content) for message in messages]
        schemas = [_scrubbed(dict(tool)) for tool in tools]
        plain = self._run(messages, contents, schemas, generate)
        letters = self._letters(plain)
        if not letters:
            return Rendered(plain, plain)
        marked = self._run(messages, _spelled(contents, letters), _spelled(schemas, letters), generate)
        text = marked.translate({private: real for real, private in letters.items()})
        if text == plain:
            return Rendered(plain, marked)
        own = self.encoder.template_controls(text, marked)
        if own == self.encoder.template_controls(plain, plain) and not self._mentions_control(contents, schemas):
            return Rendered(plain, plain)  # every control token in it is from the template
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"The chat template of {self.tokenizer.name_or_path!r} handles text with one of its control tokens in "
                "a special way. Such text is rendered as plain text instead.",
                stacklevel=2,
            )
        return Rendered(text, marked)

    def plain(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), generate: bool = False
    ) -> str:
        """The same without marks, for text that is not from outside."""
        return self._run(messages, [message.content for message in messages], [dict(t) for t in tools], generate)

    def accepts(self, messages: Sequence[Message]) -> bool:
        """Whether the template shows every one of these messages."""
        from jinja2 import TemplateError

        try:
            text = self.plain(messages)
        except (TemplateError, TypeError, KeyError):
            return False
        return all(message.content in text for message in messages)

    def _run(self, messages: Sequence[Message], contents: Sequence[str], tools: Sequence[Any], generate: bool) -> str:
        shown = [{"role": m.role, "content": content} for m, content in zip(messages, contents, strict=True)]
        return self.raw(shown, tools, generate)

    def raw(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = (), generate: bool = False) -> str:
        """Render messages in the form that templates read, as they are; for text that is not from outside.

        Raises:
            jinja2.TemplateError: The template does not accept the conversation.
        """
        from transformers.utils.chat_template_utils import _compile_jinja_template

        values = {"strftime_now": self._strftime, **self.tokenizer.special_tokens_map, **self.args}
        rendered = _compile_jinja_template(self.source).render(
            messages=list(messages), tools=list(tools) or None, documents=None, add_generation_prompt=generate, **values
        )
        return str(rendered) if generate else str(rendered).removesuffix(self.unasked)

    def _mentions_control(self, contents: Sequence[str], schemas: Sequence[Any]) -> bool:
        texts = [*contents, *(json.dumps(schema, ensure_ascii=False) for schema in schemas)]
        return any(self.encoder.mentions_control(text) for text in texts)

    def _strftime(self, form: str) -> str:
        self.asked_the_date = True
        return self.today.strftime(form)

    def _letters(self, text: str) -> dict[int, int]:
        """Map the characters of the control tokens to private-use characters that are not in ``text``."""
        size = len(self._alphabet)
        if not size:
            return {}
        held = {ord(letter) for letter in text if ord(letter) >= PRIVATE}
        base = next(
            base
            for base in range(PRIVATE, sys.maxunicode, size)
            if held.isdisjoint(range(base, base + size)) and base + size <= sys.maxunicode
        )
        return {ord(letter): base + i for i, letter in enumerate(self._alphabet)}


def _can_be_marked(letter: str) -> bool:
    return not letter.isspace() and letter not in _KEPT and ord(letter) >= 0x20


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {_scrubbed(key): _scrubbed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_scrubbed(item) for item in value]
    return value
