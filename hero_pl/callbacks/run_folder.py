"""The folder of a run: its files, and truncating them to a checkpoint."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning

from hero_pl.errors import ConfigError, HeroError
from hero_pl.runs.evaluations import EVAL_FILE
from hero_pl.runs.records import RECORDS_FILE

METRICS_FILE = "metrics.csv"
EVENTS_FILE = "events.jsonl"
GROWING = (RECORDS_FILE, EVAL_FILE, EVENTS_FILE)
"""Files that are only appended to."""


def run_folder(trainer: lightning.Trainer) -> Path | None:
    """Folder of the run, created by the first process if missing; ``None`` without a logger.

    It comes from the logger: ``trainer.log_dir`` is a collective, and not every process calls this function.
    """
    logger: Any = trainer.logger
    place = getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None)
    if place is None:
        return None
    folder = Path(place)
    if trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def resumed_folder(trainer: lightning.Trainer) -> Path | None:
    """Folder of the run, if it is resumed from one of its own checkpoints; ``None`` for a new run."""
    folder, path = run_folder(trainer), Path(str(trainer.ckpt_path)).resolve()
    return folder if folder is not None and folder.resolve() in path.parents else None


def share_folder(trainer: lightning.Trainer) -> None:
    """Give every process the folder of the first one; all processes call this together, before a file is written.

    A logger numbers a new run by the folders that exist, so a process that asks later gets the next number.
    """
    for logger in trainer.loggers:
        if trainer.world_size > 1 and hasattr(logger, "_version"):
            logger._version = trainer.strategy.broadcast(logger.version)


def holds(folder: Path) -> list[str]:
    """Names of the files of a run in a folder."""
    written = [name for name in (METRICS_FILE, *GROWING) if (folder / name).exists()]
    return written + sorted(f"checkpoints/{path.name}" for path in (folder / "checkpoints").glob("*.ckpt"))


def check_new(folder: Path) -> None:
    """Refuse a folder that already contains a run.

    Raises:
        ConfigError: The folder contains files of a run; the message lists them and the remedies.
    """
    held = holds(folder)
    if held:
        raise ConfigError(
            f"{folder} already contains a run ({', '.join(held[:4])}). Resume it with --resume auto, set another "
            "version or name (trainer.logger.init_args), or remove the folder."
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run folder so that no other process writes to it.

    Raises:
        ConfigError: Another process holds the lock, or the folder cannot be made.
    """
    if sys.platform == "win32":  # folders cannot be locked there
        yield
        return
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(
            f"The run folder {folder} cannot be made: {error.strerror or error}. Set trainer.logger.init_args.save_dir "
            "to a folder that can be written."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"Another process is writing to the run in {folder}. Wait until it ends, or use another run name."
            ) from error
        except OSError:  # a network file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def sizes(folder: Path) -> dict[str, int]:
    """Size of each file of a run: bytes, but rows for the metrics, whose header may still grow."""
    of_files = {name: (folder / name).stat().st_size for name in GROWING if (folder / name).exists()}
    return {**of_files, METRICS_FILE: max(0, len(_rows(folder / METRICS_FILE)) - 1)}


def cut_back(folder: Path, files: Mapping[str, Any]) -> Iterator[str]:
    """Remove what was written after a checkpoint; the resumed run writes it again.

    Args:
        folder: Folder of the run.
        files: Sizes from :func:`sizes` at the time of the checkpoint.

    Yields:
        A message for each file that was truncated or is too short.
    """
    for name in GROWING:
        path, size = folder / name, int(files.get(name, 0))
        beyond = path.stat().st_size - size if path.exists() else 0
        if beyond > 0:
            with path.open("r+b") as file:
                file.seek(size)
                lines = file.read().count(b"\n")
                file.truncate(size)
            yield f"{path}: {lines} lines written after the checkpoint were removed ({beyond} bytes)."
        elif beyond < 0:
            yield f"{path} is {-beyond} bytes shorter than at the checkpoint: it has lost lines of the run."
    path, count = folder / METRICS_FILE, int(files.get(METRICS_FILE, 0))
    rows = _rows(path)
    if len(rows) - 1 > count:
        write_rows(path, rows[: count + 1])
        yield f"{path}: {len(rows) - 1 - count} rows written after the checkpoint were removed."


def write_rows(path: Path, rows: list[list[str]]) -> None:
    """Replace a CSV file, see :func:`replace_file`."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    replace_file(path, text.getvalue())


def replace_file(path: Path, text: str) -> None:
    """Replace a file atomically: if the process is killed, or the disk is full, the old file stays."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _rows(path: Path) -> list[list[str]]:
    """Header and complete rows.

    Raises:
        HeroError: The file is damaged.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        return list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HeroError(f"{path} cannot be read ({error}). Repair or remove it, then resume the run.") from error
