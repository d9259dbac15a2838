"""JSON lines on disk: one object per line, written whole or not at all, read with clear errors.

A process that dies while it writes leaves at most one *torn* line: the last one, without a newline. Readers report it
and go on; the next append cuts it off first, so that two records never merge. This module knows lines and bytes, not
what is in them.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from hero_pl.errors import HeroError


class TornLineWarning(UserWarning):
    """The last line of a file was never finished; it was left out."""


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Append one JSON object per line; each line is handed to the operating system with a single write.

    Args:
        path: File to append to; it and its folder are made when missing.
        rows: Objects with JSON values only, NaN and infinities excluded.

    Returns:
        Number of lines written.

    Raises:
        HeroError: A row is not JSON, or the file cannot be written (a full disk, say). Lines that were there before and
            those of ``rows`` that were finished stay; an unfinished one is cut off again.
    """
    written = 0
    whole = None
    file = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
        whole = _end_with_a_whole_line(file, path)
        for row in rows:
            line = encode_line(row, path, written + 1)
            _write_all(file, line)
            whole += len(line)
            written += 1
    except OSError as error:
        kept = "earlier lines are untouched" if file is None or whole is None else _cut_back(file, whole)
        raise HeroError(
            f"{path}: cannot append line {written + 1} of this batch ({error.strerror or error}). Safely written: "
            f"{written} lines of this batch; {kept}. Free space or make the file writable, then append the rest "
            "again; a training run continues from its last checkpoint."
        ) from error
    finally:
        if file is not None:
            file.close()
    return written


def encode_line(row: Mapping[str, Any], path: Path, number: int) -> bytes:
    """One line of ASCII ending in a newline; ASCII because outside text may hold half of a surrogate pair.

    Raises:
        HeroError: The row holds something that JSON has no form for.
    """
    try:
        text = json.dumps(row, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise HeroError(
            f"{path}: line {number} of this batch is not JSON ({error}). Accepted are None, bool, int, finite float, "
            "str, lists and mappings with string keys: convert arrays and tensors with .tolist() or .item() first."
        ) from error
    return text.encode("ascii") + b"\n"


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number from 1, object)`` and warn when the last line is torn; blank lines are skipped.

    Raises:
        HeroError: The file cannot be read, or a line that was finished is not a JSON object.
    """
    position = 0
    count = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = _decode(line)
                    if row is not None:
                        count += 1
                        yield number, row
                    elif line.endswith(b"\n"):
                        raise HeroError(
                            f"{path}, line {number} (byte {position}): not a JSON object: {line[:60]!r}. Every line "
                            "holds one object; only the last may be unfinished. Repair or remove this line."
                        )
                    else:
                        _warn_torn(path, count, position, len(line), "left out; the next append removes it")
                position += len(line)
    except OSError as error:
        raise HeroError(
            f"{path}: cannot be read ({error.strerror or error}). Give the path of a JSON-lines file of a run."
        ) from error


def _decode(line: bytes) -> dict[str, Any] | None:
    """The object on a line, or ``None`` when the line is anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    return row if isinstance(row, dict) else None


def _write_all(file: FileIO, line: bytes) -> None:
    """Write the whole line; a nearly full disk takes a part first and refuses the rest."""
    view = memoryview(line)
    while view:
        view = view[file.write(view) :]


def _end_with_a_whole_line(file: FileIO, path: Path) -> int:
    """Finish a complete last line, cut off a torn one; returns the length of the file in bytes."""
    length = file.seek(0, os.SEEK_END)
    if length == 0:
        return 0
    tail = _after_last_newline(file, length)
    if not tail:
        return length
    if _decode(tail) is not None:
        _write_all(file, b"\n")
        return length + 1
    if not tail.startswith(b"{"):
        raise HeroError(
            f"{path}: does not end with a JSON line but with {tail[:60]!r}. Nothing was written. Give a file that "
            "hero_pl wrote, or a new name."
        )
    start = length - len(tail)
    _warn_torn(path, None, start, len(tail), "removed before appending")
    return file.truncate(start)


def _after_last_newline(file: FileIO, length: int, block: int = 1 << 16) -> bytes:
    """What follows the last newline, read backwards block by block."""
    tail = b""
    start = length
    while start > 0 and b"\n" not in tail:
        size = min(block, start)
        start -= size
        file.seek(start)
        tail = file.read(size) + tail
    return tail.rpartition(b"\n")[2]


def _cut_back(file: FileIO, whole: int) -> str:
    """Cut an unfinished line off after a failed write and say what the file holds now."""
    try:
        file.truncate(whole)
    except OSError:
        return f"the file is whole up to byte {whole}, and readers leave out the unfinished line after it"
    return f"the file is whole ({whole} bytes)"


def _warn_torn(path: Path, count: int | None, position: int, length: int, outcome: str) -> None:
    """Report a torn line with its place."""
    before = "" if count is None else f" after {count} whole lines"
    message = f"{path}: the last line is unfinished ({length} bytes at byte {position}{before}); {outcome}."
    warnings.warn(message, TornLineWarning, stacklevel=3)
