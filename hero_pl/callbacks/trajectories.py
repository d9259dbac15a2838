"""Write every training episode, with reflections and per-token losses, to ``trajectories.jsonl``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning

from hero_pl.errors import ConfigError
from hero_pl.records import append_records


class TrajectoryLog(lightning.Callback):
    """One JSON line per episode in the run folder; read it with ``hero_pl view``.

    Args:
        every_n_steps: Write the episodes of every n-th step; 0 writes none.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        if every_n_steps < 0:
            raise ConfigError(f"trajectories.every_n_steps={every_n_steps}: must be positive, or 0 for no log.")
        self.every_n_steps = every_n_steps

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Append the latest batch."""
        module: Any = trainer.lightning_module
        folder = run_folder(trainer)
        if folder and self.every_n_steps and trainer.global_step % self.every_n_steps == 0 and trainer.is_global_zero:
            append_records(folder / "trajectories.jsonl", module.last_records)


def run_folder(trainer: lightning.Trainer) -> Path | None:
    """Folder of the run, made if it is missing; ``None`` without a logger."""
    if trainer.logger is None or trainer.log_dir is None:
        return None
    folder = Path(trainer.log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
