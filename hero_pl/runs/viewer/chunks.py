"""Compressed parts of a page: most of its data, which the browser decompresses only when it is shown or searched."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable
from typing import Any, BinaryIO

CHUNK_CHARS = 1_000_000
"""Characters of JSON per chunk, about. One chunk is decompressed to show one of its episodes."""


class Chunks:
    """Collects episodes and writes them in chunks; memory holds one chunk at a time.

    A chunk consists of two script blocks that the browser does not run: ``texts-N`` has what was written, and
    ``tokens-N`` the values per token. Texts that repeat within a chunk are stored once.

    Args:
        store: Temporary file for the finished chunks.
    """

    def __init__(self, store: BinaryIO) -> None:
        self.starts: list[int] = []
        """Number of the first episode of each chunk."""
        self._store = store
        self._places: list[tuple[int, int]] = []
        self._count = 0
        self._clear()

    def _clear(self) -> None:
        self._shared: dict[str, int] = {}
        self._words: dict[str, int] = {}
        self._texts: list[str] = []
        self._tokens: list[str] = []
        self._size = 0

    def share(self, text: str) -> int:
        """Store a long text that repeats; returns its index in ``shared`` of the chunk."""
        return self._shared.setdefault(text, len(self._shared))

    def words(self, texts: Iterable[str]) -> list[int]:
        """Store the texts of tokens; returns their indices in ``words`` of the chunk."""
        known = self._words
        return [known.setdefault(text, len(known)) for text in texts]

    def add(self, texts: dict[str, Any], tokens: str) -> None:
        """Add one episode.

        Args:
            texts: JSON values of the episode.
            tokens: JSON text of the values per token; ``null`` if there are none.
        """
        if not self._texts:
            self.starts.append(self._count)
        self._count += 1
        self._texts.append(to_json(texts))
        self._tokens.append(tokens)
        self._size += len(self._texts[-1]) + len(tokens)
        if self._size >= CHUNK_CHARS:
            self.finish()

    def finish(self) -> None:
        """Write the last chunk."""
        if not self._texts:
            return
        number, begin = len(self._places), self._store.tell()
        for name, extra, parts in (("texts", self._shared, self._texts), ("tokens", self._words, self._tokens)):
            text = f'{{"shared":{to_json(list(extra))},"episodes":[{",".join(parts)}]}}'
            packed = base64.b64encode(zlib.compress(text.encode("ascii"), 6))
            self._store.write(b'<script type="text/plain" id="%s-%d">%s</script>\n' % (name.encode(), number, packed))
        self._places.append((begin, self._store.tell() - begin))
        self._clear()

    def of(self, episode: int) -> int:
        """Number of the chunk of an episode."""
        return max((number for number, start in enumerate(self.starts) if start <= episode), default=0)

    def blocks(self, numbers: Iterable[int]) -> Iterable[bytes]:
        """The script blocks of these chunks."""
        for number in numbers:
            begin, size = self._places[number]
            self._store.seek(begin)
            yield self._store.read(size)


def to_json(value: Any) -> str:
    """Compact JSON in ASCII: it keeps every character of a text, also half of a surrogate pair."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
