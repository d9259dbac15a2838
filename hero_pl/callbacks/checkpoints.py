"""Checkpoint files that are written atomically and verified by a checksum before they are read.

A file is the output of ``torch.save`` followed by one line, the *seal*: schema, optimizer step, and the SHA-256 of
everything before it. ``torch.load(path, weights_only=True)`` reads it like any other checkpoint.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from hero_pl.errors import HeroError

SCHEMA = 1
"""Increased when an older reader would misread a checkpoint."""
SEAL = re.compile(rb"\nhero_pl checkpoint schema=(\d{1,9}) step=(\d{1,18}) sha256=([0-9a-f]{64})\n\Z")
LONGEST_SEAL = 160
NO_SEAL = 1 << 62
DISCARDED = ".discarded"
"""End of the name of a checkpoint whose run went back to an earlier one; no command looks for it."""
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Seal:
    """The last line of a checkpoint."""

    schema: int
    step: int
    sha256: str
    covered: int
    """Number of bytes that the checksum covers, from the start of the file."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write and read Lightning's checkpoints as sealed files; a failed write leaves the older files unchanged."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write to ``path.partial``, flush it to the disk, then rename it; needs no second copy of the state.

        Raises:
            HeroError: The file cannot be written; the message names it and the newest intact checkpoint.
        """
        target = Path(path)
        partial = target.with_name(target.name + ".partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                _write_sealed(checkpoint, file)
            os.replace(partial, target)
            _sync_folder(target.parent)
        except (OSError, RuntimeError) as error:
            raise HeroError(
                f"Cannot write the checkpoint {target}: {error}. {_what_is_left(target.parent)} Free some "
                "space, then resume."
            ) from error
        finally:
            partial.unlink(missing_ok=True)  # after an error, or a signal

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Verify a checkpoint, then read it. Only tensors and plain values are read, for any value of ``weights_only``.

        Raises:
            HeroError: The file is missing or damaged, was not written by hero_pl, or by a newer version of it.
        """
        with _explained(Path(path)), Path(path).open("rb") as file:
            _verify(file)
            file.seek(0)
            state: dict[str, Any] = torch.load(file, map_location=map_location or "cpu", weights_only=True)
            return state


def verify(path: Path) -> Seal:
    """Compare the bytes of a checkpoint with the checksum in its seal.

    Raises:
        HeroError: As :meth:`AtomicCheckpointIO.load_checkpoint`.
    """
    with _explained(path), path.open("rb") as file:
        return _verify(file)


def read_settings(path: Path) -> dict[str, Any]:
    """Read the configuration in a checkpoint without its tensors; empty if it was written without one.

    Raises:
        HeroError: As :meth:`AtomicCheckpointIO.load_checkpoint`, but the checksum is not verified here.
    """
    with _explained(path):
        with path.open("rb") as file:
            _seal(file)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    settings: dict[str, Any] = state.get("run", {}).get("settings", {})
    return settings


def read_progress(path: Path) -> tuple[int, int]:
    """Optimizer steps and training turns of a checkpoint, read as in :func:`read_settings`.

    Raises:
        HeroError: As :meth:`AtomicCheckpointIO.load_checkpoint`, but neither seal nor checksum is verified here.
    """
    with _explained(path):
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return int(state.get("global_step", 0)), int(state.get("hero", {}).get("turns", 0))


def checksum(path: Path) -> str:
    """SHA-256 that the seal of a checkpoint names, not compared with its bytes; empty without a file or a seal."""
    try:
        with path.open("rb") as file:
            return _seal(file).sha256
    except (OSError, HeroError):
        return ""


def oldest_step(folder: Path) -> int | None:
    """Optimizer step of the oldest checkpoint in a folder; ``None`` without one that has a seal."""
    steps = [step for path in folder.glob("*.ckpt") if (step := _step(path)) != NO_SEAL]
    return min(steps, default=None)


def newest_verified(folder: Path) -> tuple[Path | None, list[str]]:
    """Find the intact checkpoint of a folder with most optimizer steps, and the reasons why newer ones were rejected.

    Raises:
        HeroError: A newer version of hero_pl wrote the newest checkpoint; an older one would lose its progress.
    """
    refused: list[str] = []
    for path in sorted(folder.glob("*.ckpt"), key=_age, reverse=True):
        try:
            verify(path)
        except HeroError as error:
            if isinstance(error.__cause__, _Newer):
                raise
            refused.append(str(error))
        else:
            return path, refused
    return None, refused


def discard_later(folder: Path, than: Path) -> Iterator[str]:
    """Rename the checkpoints that :func:`newest_verified` prefers to one that a run goes back to; none is deleted.

    Yields:
        A message for each of them.
    """
    for path in sorted(folder.glob("*.ckpt")):
        if _age(path) <= _age(than) or _step(path) == NO_SEAL:  # one without a seal is nobody's next one
            continue
        aside, numbers = path.with_name(path.name + DISCARDED), itertools.count(2)
        while aside.exists():
            aside = path.with_name(f"{path.name}-{next(numbers)}{DISCARDED}")
        path.rename(aside)
        yield f"{path} is later than the checkpoint that the run goes back to: it was renamed to {aside.name}."


# -- writing -----------------------------------------------------------------------------------------------------------


class _Hashed:
    """Write bytes to a file and hash them; an error is kept until ``torch.save`` has finished.

    After a failed write the writer of torch still tries to finish its archive, and aborts the process if that fails.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.error = file, hashlib.sha256(), None

    error: OSError | None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.file.write(data)
                self.digest.update(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Do nothing: the file is flushed once, at the end."""


def _write_sealed(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    hashed = _Hashed(file)
    torch.save(checkpoint, hashed)  # type: ignore[arg-type]  # only needs write and flush
    hashed.write(f"\nhero_pl checkpoint schema={SCHEMA} step={int(checkpoint.get('global_step', 0))} sha256=".encode())
    if hashed.error is not None:
        raise hashed.error
    file.write(hashed.digest.hexdigest().encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename survive a power failure, where the system supports it."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _what_is_left(folder: Path) -> str:
    try:
        kept, _ = newest_verified(folder)
    except (OSError, HeroError):
        kept = None
    return f"The newest intact one is {kept}." if kept else "There is no earlier one."


# -- reading -----------------------------------------------------------------------------------------------------------


class _Newer(HeroError):
    """The file is intact, but its schema is newer than this version."""


def _verify(file: BinaryIO) -> Seal:
    seal = _seal(file)
    digest, left = hashlib.sha256(), seal.covered
    file.seek(0)
    while left and (block := file.read(min(BLOCK, left))):
        digest.update(block)
        left -= len(block)
    if digest.hexdigest() != seal.sha256:
        raise HeroError("its checksum is wrong: the file has changed since it was written")
    if seal.schema > SCHEMA:
        raise _Newer(
            f"a newer version of hero_pl wrote it (schema {seal.schema}, this one reads up to {SCHEMA}); upgrade "
            "hero_pl"
        )
    return seal


def _seal(file: BinaryIO) -> Seal:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise HeroError("it is empty")
    tail_at = max(0, size - LONGEST_SEAL)
    file.seek(tail_at)
    tail = file.read()
    match = SEAL.search(tail)
    if match is None:
        raise HeroError("it has no seal at its end: it is incomplete, or another program wrote it")
    return Seal(int(match[1]), int(match[2]), match[3].decode(), tail_at + match.start(3))


def _age(path: Path) -> tuple[int, int]:
    """Sorts the checkpoints of a run; the time of the file tells those after batches without a step apart."""
    return _step(path), path.stat().st_mtime_ns


def _step(path: Path) -> int:
    """Optimizer step in the seal; a file without a seal sorts as the newest, so that it is reported."""
    try:
        with path.open("rb") as file:
            return _seal(file).step
    except (OSError, HeroError):
        return NO_SEAL


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn any error into one that names the file and the remedy."""
    try:
        yield
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, HeroError) as error:
        # For a foreign pickle the message of torch recommends to disable its protection; do not show that.
        foreign = isinstance(error, pickle.UnpicklingError)
        reason = "it contains other objects than tensors" if foreign else (str(error) or repr(error)).splitlines()[0]
        raise HeroError(
            f"The checkpoint {path} cannot be read: {reason}. Nothing was loaded. Resume from an earlier one in the "
            "same folder (--resume auto takes the newest intact one), or start without it."
        ) from error
