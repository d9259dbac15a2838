"""JSON-lines files: one object per line; an unfinished line is detected and removed.

A process that is killed while it writes leaves at most one *torn* line: the last one, without a newline. Readers warn
and skip it; the next append removes it first, so that two records never merge. This module handles lines and bytes; it
does not interpret the objects.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from hero_pl.errors import HeroError


class TornLineWarning(UserWarning):
    """The last line of a file is unfinished; it was left out."""


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Append one JSON object per line; each line is written to the operating system at once.

    Args:
        path: File to append to; the file and its folder are created if missing.
        rows: Objects with JSON values only; NaN and infinities are not allowed.

    Returns:
        Number of lines written.

    Raises:
        HeroError: A row is not JSON, or the file cannot be written (for example, the disk is full). Earlier lines and
            the finished lines of ``rows`` stay in the file; an unfinished line is removed.
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
            f"{path}: cannot append line {written + 1} of this batch ({error.strerror or error}). Written: "
            f"{written} lines of this batch; {kept}. Free space or make the file writable, then append the rest "
            "again; a training run continues from its last checkpoint."
        ) from error
    finally:
        if file is not None:
            file.close()
    return written


def finite(value: Any) -> Any:
    """The value with null for every number in it that JSON does not have: NaN and the infinities."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def encode_line(row: Mapping[str, Any], path: Path, number: int) -> bytes:
    """Encode one line, ending in a newline. It is ASCII because outside text may contain a lone surrogate.

    Raises:
        HeroError: A value cannot be represented in JSON.
    """
    try:
        text = json.dumps(row, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise HeroError(
            f"{path}: line {number} of this batch is not JSON ({error}). Expected None, bool, int, finite float, "
            "str, lists and mappings with string keys. Convert arrays and tensors with .tolist() or .item() first."
        ) from error
    return text.encode("ascii") + b"\n"


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, object)``, counting from 1; blank lines are skipped, and a torn last line gives a warning.

    Raises:
        HeroError: The file cannot be read, or a finished line is not a JSON object.
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
                            "must hold one object; only the last may be unfinished. Repair or remove this line."
                        )
                    else:
                        _warn_torn(path, count, position, len(line), "left out; the next append removes it")
                position += len(line)
    except OSError as error:
        raise HeroError(
            f"{path}: cannot be read ({error.strerror or error}). Give the path of a JSON-lines file of a run."
        ) from error


def _decode(line: bytes) -> dict[str, Any] | None:
    """Parse the object on a line; ``None`` if the line is anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    return row if isinstance(row, dict) else None


def _write_all(file: FileIO, line: bytes) -> None:
    """Write the whole line; on a nearly full disk a single write may write only a part."""
    view = memoryview(line)
    while view:
        view = view[file.write(view) :]


def _end_with_a_whole_line(file: FileIO, path: Path) -> int:
    """Add a missing newline to a complete last line, or remove a torn one; return the length of the file in bytes."""
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
            f"{path} ends with {tail[:60]!r}, which is not a JSON line. Nothing was written. Give a file that "
            "hero_pl wrote, or a new name."
        )
    start = length - len(tail)
    _warn_torn(path, None, start, len(tail), "removed before appending")
    return file.truncate(start)


def _after_last_newline(file: FileIO, length: int, block: int = 1 << 16) -> bytes:
    """Bytes after the last newline, read backwards block by block."""
    tail = b""
    start = length
    while start > 0 and b"\n" not in tail:
        size = min(block, start)
        start -= size
        file.seek(start)
        tail = file.read(size) + tail
    return tail.rpartition(b"\n")[2]


def _cut_back(file: FileIO, whole: int) -> str:
    """Remove an unfinished line after a failed write; return text about the state of the file."""
    try:
        file.truncate(whole)
    except OSError:
        return f"the file is complete up to byte {whole}; readers skip the unfinished line after it"
    return f"the file has only complete lines ({whole} bytes)"


def _warn_torn(path: Path, count: int | None, position: int, length: int, outcome: str) -> None:
    """Warn about a torn line, with its position."""
    before = "" if count is None else f" after {count} complete lines"
    message = f"{path}: the last line is unfinished ({length} bytes at byte {position}{before}); {outcome}."
    warnings.warn(message, TornLineWarning, stacklevel=3)
