"""A second row in Lightning's Rich progress bar: finished episodes of the current rollout or evaluation."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import ProcessingSpeedColumn
from rich.console import Console


class EpisodeProgress(lightning.Callback):
    """Shows the number of finished episodes; the row above has the success rate and training turns of each step.

    Nothing is drawn with ``trainer.enable_progress_bar: false``, or if the output is not a terminal.
    """

    def __init__(self) -> None:
        self._row: Any = None

    def setup(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        """Receive progress from the data module, if there is a progress bar."""
        bar, console = trainer.progress_bar_callback, Console()
        if not (console.is_terminal or console.is_jupyter):
            if bar is not None:
                bar.disable()
        elif isinstance(bar, RichProgressBar) and bar.is_enabled:
            # Lightning shows "Epoch 5/-2" without a limit of epochs; here an epoch is one pass over the tasks
            bar._get_train_description = lambda current_epoch: f"Pass {current_epoch + 1}"  # type: ignore[method-assign]
            metrics, columns = bar.get_metrics, bar.configure_columns
            bar.get_metrics = lambda *of: _shown(metrics(*of))  # type: ignore[method-assign]
            # no rate: episodes end in groups and steps differ in length
            bar.configure_columns = lambda *of: [  # type: ignore[method-assign]
                column for column in columns(*of) if not isinstance(column, ProcessingSpeedColumn)
            ]
            trainer.datamodule.on_progress = lambda finished, total: self._show(trainer, bar, finished, total)  # type: ignore[attr-defined]

    def _show(self, trainer: lightning.Trainer, bar: RichProgressBar, finished: int, total: int) -> None:
        if bar.progress is None:  # the evaluation before training runs before the bar starts
            bar.on_train_start(trainer, trainer.lightning_module)
        if bar.progress is None:
            return
        if self._row is None or self._row not in bar.progress.task_ids:
            self._row = bar.progress.add_task("Episodes", total=total)
        if finished == 0:
            bar.progress.reset(self._row, total=total)  # restart the time for this rollout
        bar.progress.update(self._row, completed=finished, total=total, visible=finished < total)
        bar.refresh()


def _shown(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics to show: without the run's version number, and with training turns as an integer."""
    return {name: f"{value:.0f}" if name == "turns" else value for name, value in metrics.items() if name != "v_num"}
