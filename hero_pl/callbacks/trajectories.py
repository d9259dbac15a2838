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
        every_n_steps: Write the training episodes of every n-th optimizer step; 0 writes none. A batch without a step
            counts as one; of a batch with several, all episodes are written if one of its steps is due. The episodes of
            ``validate``, ``test`` and ``predict`` are written unless this is 0, those of ``held_out`` in any case.
    """

    def __init__(self, every_n_steps: int = 1) -> None:
        if every_n_steps < 0:
            raise ConfigError(
                f"trajectories.every_n_steps={every_n_steps}: expected a positive number, or 0 for no log."
            )
        self.every_n_steps = every_n_steps
        self._count: int | None = None
        """Optimizer steps so far, plus batches without one; ``None`` before training."""
        self._step = 0
        """Optimizer steps at the end of the last batch."""

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Count from the step at which the run starts, or is resumed."""
        self._step = trainer.global_step
        if self._count is None:
            self._count = self._step

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Append the episodes of the latest batch."""
        module: Any = trainer.lightning_module
        folder, due = run_folder(trainer), self._due(trainer.global_step)
        if folder and due and trainer.is_global_zero:
            append_records(folder / RECORDS_FILE, module.last_records)

    def _due(self, step: int) -> bool:
        """Whether the latest batch, which ended at this step, has passed a multiple of ``every_n_steps``."""
        before = self._count or 0
        self._count, self._step = before + max(1, step - self._step), step
        return self.every_n_steps > 0 and self._count // self.every_n_steps > before // self.every_n_steps

    def state_dict(self) -> dict[str, Any]:
        """The count of steps and of batches without one."""
        return {} if self._count is None else {"count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._count = int(state_dict["count"])

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
        """Append the episodes of ``predict`` and print the path, or why there is none."""
        path = self._evaluated(trainer, "predict", batch)
        if trainer.is_global_zero:
            cause = "trajectories.every_n_steps is 0" if run_folder(trainer) else "the run has no folder"
            where = f"written to {path}" if path is not None else f"not written: {cause}"
            Console().print(f"{len(batch)} episodes {where}", markup=False, soft_wrap=True)

    def _evaluated(self, trainer: lightning.Trainer, stage: str, played: list[Trajectory]) -> Path | None:
        folder = run_folder(trainer)
        if folder is None or not self.every_n_steps:
            return None
        if trainer.is_global_zero:
            append_records(folder / RECORDS_FILE, (Record(stage, trainer.global_step, t) for t in played))
        return folder / RECORDS_FILE
