"""Print and save the measurements of ``template: auto``."""

from __future__ import annotations

import json
from typing import Any

import lightning
from rich.console import Console

from hero_pl.callbacks.run_folder import run_folder
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.hint_check.report import summary, to_table

FILE = "hint_check.json"
"""Name of the file in the run folder."""


class HintCheck(lightning.Callback):
    """Prints the table and the choice after the first batch, and writes ``hint_check.json`` to the run folder."""

    def __init__(self) -> None:
        self._console = Console()
        self._told = False

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *args: Any) -> None:
        """Report after the first batch, if anything was measured."""
        self._tell(trainer, module)

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        """Save the measurement of a run that was refused; its message already has the table."""
        self._tell(trainer, module, table=False)

    def _tell(self, trainer: lightning.Trainer, module: Any, table: bool = True) -> None:
        teacher = getattr(module.objective, "teacher", None)
        if self._told or not isinstance(teacher, HindsightTeacher) or teacher.report is None:
            return
        self._told = True
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        if table:
            self._console.print(to_table(teacher.report))
            self._console.print(f"template: auto chose {teacher.wording}. {summary(teacher.report)}", markup=False)
        if folder is not None:
            record = {"taken": [teacher.wording.template, teacher.wording.position], **teacher.report.to_json()}
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
