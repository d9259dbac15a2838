"""Where the callbacks of a run write."""

from __future__ import annotations

from pathlib import Path

import lightning


def run_folder(trainer: lightning.Trainer) -> Path | None:
    """Folder of the run, made if it is missing; ``None`` without a logger."""
    if trainer.logger is None or trainer.log_dir is None:
        return None
    folder = Path(trainer.log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
