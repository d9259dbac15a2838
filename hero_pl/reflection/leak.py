"""Check whether a diagnosis of turn t contains information from later turns.

With such a hint the teacher prefers actions that the student cannot know to be correct: the loss decreases, but nothing
is learned. The check looks for two things, if their first occurrence in the episode is after the reply to turn t: a
sequence of ``ngram`` words, and an identifier (four characters or more, with a digit). Words are sequences of letters
from a to z and digits, so in texts of other scripts only numbers and names in these letters are found.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from hero_pl.reflection.context import ReflectionContext

REDACTED = "[redacted]"
_WORD = re.compile(r"[A-Za-z0-9]+(?:[-_.@#][A-Za-z0-9]+)*")
_PART = re.compile(r"[-_.@#]")
_ESCAPED_SPACE = re.compile(r"\\[nrt]")


def words(text: str) -> list[str]:
    r"""Lower-case sequences of ``[a-z0-9]``, joined across single ``-_.@#``; ``\n`` of JSON text is a space.

    Example:
        >>> words("Mail mia@shop.test, order #W4410 - item 12.")
        ['mail', 'mia@shop.test', 'order', 'w4410', 'item', '12']
    """
    return [found.group().lower() for found in _word_spans(_composed(text))]


def is_identifier(word: str) -> bool:
    """Whether a word has four characters or more, with a digit."""
    return len(word) >= 4 and any(character.isdigit() for character in word)


class LeakIndex:
    """First occurrence of each word sequence and each identifier of one episode.

    A diagnosis of turn t may repeat the task, the final reward and turns 1 to t (actions and replies). Text whose first
    occurrence is after turn t is a leak.

    Args:
        episode: The episode.
        ngram: Number of consecutive words that count as a quotation.
    """

    def __init__(self, episode: ReflectionContext, ngram: int = 6) -> None:
        self.ngram = ngram
        self._first_run: dict[tuple[str, ...], int] = {}
        self._first_identifier: dict[str, int] = {}
        self._in_whole: set[str] = set()
        reward = episode.final_reward
        self._add(0, words(f"{episode.context}\n{reward} {reward:.2f} {reward:g}"))
        texts = episode.texts or episode.actions
        for number, (text, action, reply) in enumerate(
            zip(texts, episode.actions, episode.observations, strict=True), 1
        ):
            self._add(number, words(f"{action}\n{reply}"))
            if text != action:
                self._add(number, words(f"{text}\n{reply}"))

    def find(self, text: str, turn: int) -> Literal["leak_ngram", "leak_identifier"] | None:
        """The code of the first leak in ``text`` as a diagnosis of ``turn``, or ``None``."""
        own_words = words(text)
        if any(True for _ in self._leaking_runs(own_words, turn)):
            return "leak_ngram"
        return "leak_identifier" if any(self._leaking_identifier(word, turn) for word in own_words) else None

    def in_action(self, action: Mapping[str, Any], turn: int) -> bool:
        """Whether a corrected action of ``turn`` is a leak; each name and each value is checked separately.

        The action is not checked as one text: the policy often takes the correct action at a later turn, and the words
        of a call (``name``, ``arguments``, names of tools) are no information.
        """
        return any(self.find(piece, turn) is not None for piece in _pieces(action))

    def redact(self, text: str, turn: int) -> str:
        """Replace every leaking word sequence and identifier by a marker."""
        text = _composed(text)
        spans = _word_spans(text)
        own_words = [span.group().lower() for span in spans]
        leaking = {i for i, word in enumerate(own_words) if self._leaking_identifier(word, turn)}
        for start in self._leaking_runs(own_words, turn):
            leaking.update(range(start, start + self.ngram))
        pieces: list[str] = []
        position = 0
        for i in sorted(leaking):
            if i - 1 not in leaking:
                pieces += [text[position : spans[i].start()], REDACTED]
            position = spans[i].end()
        return "".join([*pieces, text[position:]])

    def _add(self, turn: int, own_words: list[str]) -> None:
        for i in range(len(own_words) - self.ngram + 1):
            self._first_run.setdefault(tuple(own_words[i : i + self.ngram]), turn)
        for word in filter(is_identifier, own_words):
            self._in_whole.add(word)
            for name in (word, *_parts(word)):
                self._first_identifier.setdefault(name, turn)

    def _leaking_runs(self, own_words: list[str], turn: int) -> Iterable[int]:
        for i in range(len(own_words) - self.ngram + 1):
            if self._first_run.get(tuple(own_words[i : i + self.ngram]), 0) > turn:
                yield i

    def _leaking_identifier(self, word: str, turn: int) -> bool:
        """A joined word (``item_8301557``, ``8301557.then``) is also a leak if a part of it occurs later as a word."""
        candidates = (name for name in (word, *_parts(word)) if name in self._in_whole)
        return any(self._first_identifier.get(name, 0) > turn for name in candidates)


def _pieces(value: Any) -> Iterable[str]:
    """Every key and every scalar of JSON data, as text."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            waiting += part
        elif part is not None:
            yield str(part)


def _parts(word: str) -> list[str]:
    pieces = _PART.split(word)
    return [piece for piece in pieces if is_identifier(piece)] if len(pieces) > 1 else []


def _composed(text: str) -> str:
    """Convert to Unicode NFC, because tokenizers may compose text that the environment writes decomposed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _word_spans(text: str) -> list[re.Match[str]]:
    return list(_WORD.finditer(_ESCAPED_SPACE.sub("  ", text)))  # two characters for two: offsets stay
