"""Write episodes to ``trajectories.jsonl``: training episodes with reflections and losses, and evaluated ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
from rich.console import Console

from hero_pl.callbacks.run_folder import run_folder
from hero_pl.errors import ConfigError
from hero_pl.runs.records import RECORDS_FILE, Record, append_records
from hero_pl.types import Trajectory


class TrajectoryLog(lightning.Callback):
    """Writes one JSON line per episode to the run folder; show them with ``hero_pl view``.

    Args:
        every_n_steps: Write the training episodes of every n-th step; 0 writes none. The episodes of ``held_out`` are
            written in any case.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        if every_n_steps < 0:
            raise ConfigError(
                f"trajectories.every_n_steps={every_n_steps}: expected a positive number, or 0 for no log."
            )
        self.every_n_steps = every_n_steps

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Append the episodes of the latest batch."""
        module: Any = trainer.lightning_module
        folder = run_folder(trainer)
        if folder and self.every_n_steps and trainer.global_step % self.every_n_steps == 0 and trainer.is_global_zero:
            append_records(folder / RECORDS_FILE, module.last_records)

    def on_fit_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Print the run folder, unless the last evaluation has printed it."""
        from hero_pl.callbacks.held_out import HeldOut

        folder = run_folder(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        logged = (folder / RECORDS_FILE).exists()
        evaluated = any(isinstance(one, HeldOut) and one.episodes for one in trainer.callbacks)  # type: ignore[attr-defined]
        if not (logged and evaluated):
            look = f"; view it with: hero_pl view {folder}" if logged else ""
            Console().print(f"The run is in {folder}{look}", markup=False, highlight=False, soft_wrap=True)

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Append the episodes of ``validate``."""
        self._evaluated(trainer, "validate", batch)

    def on_test_batch_end(self, trainer: lightning.Trainer, module: Any, out: Any, batch: Any, *_: Any) -> None:
        """Append the episodes of ``test``."""
        self._evaluated(trainer, "test", batch)

    def on_predict_batch_end(self, trainer: lightning.Trainer, module: Any, out: Any, batch: Any, *_: Any) -> None:
        """Append the episodes of ``predict`` and print the path."""
        path = self._evaluated(trainer, "predict", batch)
        if path is not None and trainer.is_global_zero:
            Console().print(f"{len(batch)} episodes written to {path}", markup=False)

    def _evaluated(self, trainer: lightning.Trainer, stage: str, played: list[Trajectory]) -> Path | None:
        folder = run_folder(trainer)
        if folder is None or not self.every_n_steps:
            return None
        if trainer.is_global_zero:
            append_records(folder / RECORDS_FILE, (Record(stage, trainer.global_step, t) for t in played))
        return folder / RECORDS_FILE
