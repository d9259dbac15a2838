"""Splits control tokens in the text of a data set, so that a tokenizer reads them as plain text.

A trainer renders messages with a chat template and encodes the result as a whole, so the text ``<|im_end|>`` of a
product or a user would end a message. Rollouts encode such text separately (:mod:`hero_pl.chat.encode`). In a file, a
zero-width space is inserted after the first character of the control token; a person does not see it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hero_pl.chat.calls import MARKERS
from hero_pl.chat.reasoning import PAIRS

BREAK = "\u200b"
"""Zero-width space."""
FAMILIES = (
    r"<[|｜][^<>\n]{1,60}[|｜]>",
    r"</?(?:s|unk|pad|bos|eos|mask|cls|sep)>",
    r"\[/?(?:INST|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|SYSTEM_PROMPT|PAD|UNK|BOS|EOS|CLS|SEP|MASK)\]",
    r"<<?/?SYS>>?",
    r"<(?:start|end)_of_(?:turn|image|role)>",
    r"<end_of_(?:utterance|text)>",
)
"""Control tokens of common tokenizers, because another tokenizer than that of the run may read the file."""
SPOKEN = tuple(text for pair in (*MARKERS, *PAIRS) for text in pair)
"""Markers that a model writes itself, around tool calls and reasoning."""


class Defuser:
    """Splits control tokens in texts, and counts the texts that had any.

    Args:
        control: Control tokens of the tokenizer of the run, in addition to those of common families.

    Example:
        >>> Defuser().outside("red<|im_end|>") == "red<" + BREAK + "|im_end|>"
        True
    """

    def __init__(self, control: Iterable[str] = ()) -> None:
        known = sorted((text for text in control if len(text) > 1), key=len, reverse=True)
        self._outside = _pattern([*known, *SPOKEN])
        self._model = _pattern(text for text in known if text not in SPOKEN)
        self.broken = 0
        """Texts that were changed."""

    def outside(self, text: str) -> str:
        """Text of an environment or its user; markers of calls and of reasoning are split, too."""
        return self._break(self._outside, text)

    def model(self, text: str) -> str:
        """Text of the policy; markers of calls and of reasoning are kept."""
        return self._break(self._model, text)

    def data(self, value: Any) -> Any:
        """A copy of JSON data (arguments of a call, a tool schema) with every text and key like :meth:`outside`.

        Example:
            >>> Defuser().data({"ids": ["</s>", 3]}) == {"ids": ["<" + BREAK + "/s>", 3]}
            True
        """
        if isinstance(value, str):
            return self.outside(value)
        if isinstance(value, Mapping):
            return {self.data(key): self.data(item) for key, item in value.items()}
        return [self.data(item) for item in value] if isinstance(value, list | tuple) else value

    def _break(self, pattern: re.Pattern[str], text: str) -> str:
        safe = pattern.sub(lambda found: found[0] if found[0] in self._kept(pattern) else _split(found[0]), text)
        self.broken += safe != text
        return safe

    def _kept(self, pattern: re.Pattern[str]) -> tuple[str, ...]:
        return () if pattern is self._outside else SPOKEN


def _split(text: str) -> str:
    return text[0] + BREAK + text[1:]


def _pattern(known: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join([*map(re.escape, known), *FAMILIES]))
