"""The logger of every run: ``metrics.csv`` in the run folder, continued when the run is resumed."""

from __future__ import annotations

import csv
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from hero_pl.callbacks.run_folder import check_new, locked, write_rows
from hero_pl.errors import ConfigError

LONGEST_NAME = 200
"""Maximum length of a run's name; most file systems allow 255 bytes per path component."""


class RunLogger(CSVLogger):
    """Lightning's CSV logger, with names that stay inside ``save_dir`` and one run per folder.

    Args:
        save_dir: Folder of all runs.
        name: Name of the run: letters, digits, spaces and ``-_.=+,@``, in parts separated by ``/``.
        version: Version of the run; default: the next free number.

    Raises:
        ConfigError: The name or the version leads out of ``save_dir``.
    """

    def __init__(self, save_dir: str = "runs", name: str | None = "run", version: int | str | None = None) -> None:
        for key, text in (("name", name or ""), ("version", str(0 if version is None else version))):
            check_name(text, f"trainer.logger.init_args.{key}")
        super().__init__(save_dir, name, version)
        self.fixed = version is not None
        """Whether the configuration gives the version."""
        self.resumed = False
        """Whether the folder contains the run that is resumed."""
        self._lock = ExitStack()

    def go_on_in(self, folder: Path) -> None:
        """Write to the folder of an earlier run and keep its rows."""
        self._save_dir, self._name, self._version, self.resumed = str(folder.parent), "", folder.name, True

    @rank_zero_only
    def check(self) -> None:
        """Refuse a folder that contains another run, or that another process writes to.

        Raises:
            ConfigError: The folder is in use; the message gives the remedies.
        """
        folder = Path(self.log_dir)
        if not self.resumed:
            check_new(folder)
        self._lock.close()
        self._lock.enter_context(locked(folder))

    @property
    def log_dir(self) -> str:
        """Folder of the run.

        Raises:
            ConfigError: A symbolic link leads out of ``save_dir``.
        """
        folder = super().log_dir
        root = Path(self.save_dir).resolve()
        if root not in Path(folder).resolve().parents:
            raise ConfigError(
                f"The run folder {folder} lies outside {root}, because a part of its path is a symbolic link. Remove "
                "the link, or set trainer.logger.init_args.save_dir to the folder that it points to."
            )
        return folder

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of ``metrics.csv``.

        Raises:
            ConfigError: The folder contains another run.
        """
        if self._experiment is None:
            self.check()
            self._experiment = _Rows(self.log_dir)
        return self._experiment

    def finalize(self, status: str) -> None:
        """Write the remaining rows and release the lock."""
        super().finalize(status)
        self._lock.close()


class _Rows(ExperimentWriter):
    """Appends to existing rows; the file is replaced atomically when its header grows."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.metrics_keys = next(csv.reader(file), [])

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        write_rows(path, [fieldnames, *([row.get(name) or "" for name in fieldnames] for row in rows)])


def check_name(text: str, key: str) -> None:
    """Check that a name can be used as a folder below another one.

    Raises:
        ConfigError: The name is not accepted; the message says what is.
    """
    shown = repr(text if len(text) <= 60 else f"{text[:57]}...")
    parts = text.split("/") if text else []
    if len(text) > LONGEST_NAME:
        raise ConfigError(f"{key}={shown} has {len(text)} characters; expected at most {LONGEST_NAME}.")
    if any(part in ("", ".", "..") or not re.fullmatch(r"[\w \-.=+,@]+", part) for part in parts):
        raise ConfigError(
            f"{key}={shown}: expected letters, digits, spaces and -_.=+,@ in parts separated by single slashes, none "
            "of them '.' or '..'. To choose the folder of all runs set trainer.logger.init_args.save_dir."
        )
