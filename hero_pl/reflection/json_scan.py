"""Find and parse JSON in the text of a language model, with repairs of small errors.

:func:`scan` reads a text once and returns the objects and lists in it; prose and code fences around them are
ignored. :class:`_Reader` parses one of them. It accepts JSON and a fixed list of repairs: raw
newlines and unescaped quotes in strings, trailing or missing commas, ``None/True/False``, curly quotes, single-quoted
literals, bare keys and bare words. Nothing is evaluated. An unfinished or broken container keeps the members that were
complete. Work is bounded by a budget proportional to the text, so that a megabyte of nested braces ends quickly.

This module does not depend on turns.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hero_pl.chat.encode import scrub

Stop: TypeAlias = Literal["", "truncated", "broken", "deep"]
JSON_BEGINS = re.compile(r"\s*(?:\{|\[\s*\{|```)")
"""Beginning of an answer in JSON, also of one in a code fence."""
MAX_DEPTH = 64
"""Maximum nesting of containers; a reflection needs five or six levels."""


@dataclass(slots=True)
class Members:
    """A JSON object as written: pairs in order, with duplicates."""

    pairs: list[tuple[str, Any]]
    complete: bool = False


@dataclass(slots=True)
class Items:
    """A JSON list as written."""

    values: list[Any]
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """One object or list found in a text, ``text[start:end]``."""

    start: int
    end: int
    value: Members | Items
    repaired: bool
    """Whether text that is not JSON was accepted, or an invalid rest was left out."""
    truncated: bool
    """Whether the text ended before the container."""


def plain(value: Any) -> Any:
    """Convert the reader's result to dictionaries and lists; the last of duplicate keys is used."""
    if isinstance(value, Members):
        return {key: plain(item) for key, item in value.pairs}
    if isinstance(value, Items):
        return [plain(item) for item in value.values]
    return value


def is_complete(value: Any) -> bool:
    """False for a container without an end."""
    return not isinstance(value, Members | Items) or value.complete


def scan(text: str) -> Iterator[Span]:
    """Yield the JSON containers of ``text`` in order.

    Valid containers do not overlap. A container that is incomplete or needed repairs is yielded with its members, and
    reading continues inside it, because its opening brace may have been prose.
    """
    budget = 8 * len(text) + 65536  # number of characters read, over all attempts
    position = 0
    while budget > 0 and (opening := _OPENING.search(text, position)):
        start = opening.start()
        reader = _Reader(text, start)
        value = reader.read()
        budget -= reader.position - start + 32
        repaired = reader.repaired or reader.stop in ("broken", "deep")
        yield Span(start, reader.position, value, repaired, reader.stop == "truncated")
        clean = value.complete and not reader.repaired
        position = reader.position if clean or reader.stop == "deep" else start + 1


# --- the reader ------------------------------------------------------------------------------------------------------

_DOUBLE, _SINGLE = "“”„‟", "‘’‚‛"
_ANY_QUOTE = f"\"'{_DOUBLE}{_SINGLE}"
# Try to read after a brace if a key, the end or nothing follows; after a bracket, if an object or nothing follows.
_OPENING = re.compile(rf"\{{(?=\s*(?:[{_ANY_QUOTE}\w}}]|\Z))|\[(?=\s*(?:\{{|\Z))")
_SPACE = re.compile(r"\s*")
_CUT_OFF = re.compile(r"[\w.+-]*\s*(?:```|\Z)")  # at most one unfinished word before the end of the text or the fence
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.%+-])")
_BARE_WORD = re.compile(r"[\w.%+-]+(?=\s*[,}\]])")
_BARE_KEY = re.compile(r"\w{1,64}(?:[ -]\w{1,16})?(?=\s{0,8}:)")
_STRICT_STRING = re.compile(r'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"')
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_UNESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_STRICT_WORDS = {"true", "false", "null"}
# A quote ends a string only where the string may end; any other quote is part of the text.
_NEXT_KEY = rf"[{_ANY_QUOTE}]\w[\w -]{{0,64}}[{_ANY_QUOTE}]\s*:"
_AFTER_KEY = re.compile(r"\s*:")
_MORE_MEMBERS = rf"\Z|,\s*(?:[{_ANY_QUOTE},}}]|\w+\s*:|\Z)|{_NEXT_KEY}"
_AFTER_OUTER_MEMBER = re.compile(rf"\s*(?:\}}|{_MORE_MEMBERS})")
_AFTER_INNER_MEMBER = re.compile(rf"\s*(?:\}}\s*(?:[,}}\]{_ANY_QUOTE}]|```|\Z)|{_MORE_MEMBERS})")
_AFTER_ITEM = re.compile(r"\s*(?:\Z|[,\]])")
_INCOMPLETE = object()


class _Reader:
    """Reads one container from ``start``; for an incomplete one, ``stop`` is the reason."""

    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.position = start
        self.repaired = False
        self.stop: Stop = ""

    def read(self) -> Members | Items:
        return self._object(0) if self.text[self.position] == "{" else self._list(0)

    def _object(self, depth: int) -> Members:
        node = Members([])
        self.position += 1
        while self._next() != "}":
            if self._stray_comma():
                continue
            key = self._key()
            if self._next() != ":":
                self._halt()
            if self.stop:
                return node
            self.position += 1
            if not self._member(node.pairs, key, depth):
                return node
        self.position += 1
        node.complete = True
        return node

    def _list(self, depth: int) -> Items:
        node = Items([])
        self.position += 1
        while self._next() != "]":
            if self._stray_comma():
                continue
            value = self._value(depth, _AFTER_ITEM)
            if value is not _INCOMPLETE:
                node.values.append(value)
            if self.stop:
                return node
            self._separator("]")
        self.position += 1
        node.complete = True
        return node

    def _member(self, pairs: list[tuple[str, Any]], key: str, depth: int) -> bool:
        """Read one value; False if reading has to stop."""
        value = self._value(depth, _AFTER_INNER_MEMBER if depth else _AFTER_OUTER_MEMBER)
        if value is not _INCOMPLETE:
            pairs.append((key, value))
        if self.stop:
            return False
        self._separator("}")
        return True

    def _separator(self, closing: str) -> None:
        """Read one comma; a trailing or a missing one is a repair."""
        if self._next() == ",":
            self.position += 1
            self.repaired |= self._next() in (closing, ",")
        else:
            self.repaired |= self._next() not in (closing, "")

    def _stray_comma(self) -> bool:
        if self._next() != ",":
            return False
        self.position += 1
        self.repaired = True
        return True

    def _key(self) -> str:
        if self._next() and self._next() in _ANY_QUOTE:
            return self._string(_AFTER_KEY)
        bare = _BARE_KEY.match(self.text, self.position)
        if bare is None:
            self._halt()
            return ""
        self.repaired = True
        self.position = bare.end()
        return bare.group()

    def _value(self, depth: int, after: re.Pattern[str]) -> Any:
        first = self._next()
        if first and first in "{[":
            if depth + 1 >= MAX_DEPTH:
                self.stop = "deep"
                return _INCOMPLETE
            return self._object(depth + 1) if first == "{" else self._list(depth + 1)
        if first and first in _ANY_QUOTE:
            text = self._string(after)
            return _INCOMPLETE if self.stop else text
        return self._scalar()

    def _scalar(self) -> Any:
        number = _NUMBER.match(self.text, self.position)
        token = number or _BARE_WORD.match(self.text, self.position)
        if token is None or token.end() == len(self.text):
            self._halt()
            return _INCOMPLETE
        self.position = token.end()
        word = token.group()
        if number:
            return self._number(word)
        self.repaired |= word not in _STRICT_WORDS
        return _WORDS.get(word, None if word in ("NaN", "Infinity", "-Infinity") else word)

    def _number(self, word: str) -> int | float | None:
        """Numbers that cannot be recorded (infinite, thousands of digits) become None; this is a repair."""
        value = float(word)
        if not math.isfinite(value):
            self.repaired = True
            return None
        return int(word) if word.lstrip("-").isdigit() else value

    def _string(self, after: re.Pattern[str]) -> str:
        """Read a quoted string that may end only where ``after`` matches; stop the reader if it has no end."""
        text, start = self.text, self.position
        strict = _STRICT_STRING.match(text, start)
        if strict and after.match(text, strict.end()):
            try:
                value = json.loads(strict.group())
            except ValueError:  # an escape that is not JSON: handled below
                pass
            else:
                self.position = strict.end()
                return scrub(value)
        opening = text[start]
        closers = opening if opening == '"' else (f'"{_DOUBLE}' if opening in _DOUBLE else f"'{_SINGLE}")
        for mark in re.compile(rf"\\.|[{closers}]", re.DOTALL).finditer(text, start + 1):
            if mark.group()[0] != "\\" and after.match(text, mark.end()):
                self.position = mark.end()
                self.repaired = True
                return scrub(_ESCAPE.sub(_unescape, text[start + 1 : mark.start()]))
        self.position = len(text)
        self.stop = "truncated"
        return ""

    def _next(self) -> str:
        """The next character that is not white space; empty at the end of the text."""
        match = _SPACE.match(self.text, self.position)
        self.position = match.end() if match else self.position
        return self.text[self.position : self.position + 1]

    def _halt(self) -> None:
        if not self.stop:
            self.stop = "truncated" if _CUT_OFF.match(self.text, self.position) else "broken"


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    if code[0] in "ux" and len(code) > 1:
        return chr(int(code[1:], 16))
    return _UNESCAPED.get(code, code if code in "\"'\\/\n" or code in _ANY_QUOTE else "\\" + code)
