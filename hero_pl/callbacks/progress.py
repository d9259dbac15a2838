"""Progress of a run: a bar with the current activity in a terminal, otherwise one line per step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from hero_pl.callbacks.remaining import Remaining, clock_text, evaluations_left, how_it_ended, share_done
from hero_pl.callbacks.turn_budget import TurnBudget

UNITS = {"rolling out": "episodes", "evaluating": "episodes", "learning": "micro-batches"}
"""Work of the moment -> what is counted."""


class RunProgress(ProgressBar):
    """Shows training turns, success, loss and the estimated rest of the run, and what is being done at the moment.

    Switched off with ``trainer.enable_progress_bar: false``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_enabled = True
        self.remaining = Remaining()
        self._console = Console()
        self._training = False
        self._bar: Progress | None = None
        self._run: TaskID | None = None
        self._work: TaskID | None = None

    def disable(self) -> None:
        """Show nothing: Lightning calls this on all processes but the first."""
        self.is_enabled = False

    def enable(self) -> None:
        """Show again."""
        self.is_enabled = True

    @property
    def draws(self) -> bool:
        """Whether there is a terminal (or a notebook) to draw a bar in."""
        return self._console.is_terminal or self._console.is_jupyter

    def print(self, *args: Any, **kwargs: Any) -> None:
        """A line above the bar."""
        if self.is_enabled:
            text = " ".join(map(str, args))
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    # -- hooks -------------------------------------------------------------------------------------------------

    def setup(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        """Listen to the data module and the module."""
        super().setup(trainer, module, stage)
        if not trainer.is_global_zero:
            self.disable()
        trainer.datamodule.on_progress = self._work_on  # type: ignore[attr-defined]
        module.on_progress = self._work_on

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """The clock of training starts here; the evaluation before it has its own."""
        self._training = True
        self.remaining.begin(share_done(trainer, int(module.turns)))
        self._show_run(module)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *args: Any) -> None:
        """Show the step."""
        self._done_working()
        if self.draws:
            self._show_run(module)
        elif self.is_enabled:
            self.print(self._line(module))

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Say how training ended, without the bar."""
        self._training = False
        self.stop()
        took = clock_text(self.remaining.elapsed)
        why = how_it_ended(trainer, int(module.turns))
        self.print(f"Trained for {trainer.global_step} steps and {int(module.turns)} turns, {took}{why}")

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        """Remove the bar in front of the message."""
        self.stop()

    def teardown(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        """Remove the bar of an evaluation."""
        self.stop()

    def stop(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._run = self._work = None

    # -- showing -----------------------------------------------------------------------------------------------

    def _work_on(self, work: str, finished: int, total: int) -> None:
        """Progress of the work of the moment; a total of 0 means that it cannot be counted."""
        if work == "evaluating":
            self.remaining.evaluation(finished, total)
        if not (self.is_enabled and self.draws):
            return
        bar = self._started()
        if self._work is None:
            self._work = bar.add_task("", count="", shown=None)
        count = f"{finished}/{total} {UNITS.get(work, '')}" if total else ""
        known = {"total": total, "completed": finished} if total else {"total": None}
        bar.update(self._work, description=work, count=count, visible=not total or finished < total, **known)
        bar.refresh()
        if total and finished >= total and not self._training:
            self.stop()  # a report follows

    def _done_working(self) -> None:
        if self._bar is not None and self._work is not None:
            self._bar.update(self._work, visible=False)

    def _show_run(self, module: Any) -> None:
        if not (self.is_enabled and self.draws):
            return
        bar, turns = self._started(), int(module.turns)
        share = share_done(self.trainer, turns)
        if self._run is None:
            self._run = bar.add_task("training", count="", shown="", total=1.0)
        shown = "".join(f", {one}" for one in (*self._time(turns)[1:], *_shown(module.last_metrics)))
        known = {"total": 1.0, "completed": share} if share is not None else {"total": None}
        bar.update(self._run, count=self._turns(turns), shown=shown, **known)
        bar.refresh()

    def _started(self) -> Progress:
        if self._bar is None:
            columns = (
                TextColumn("{task.description:11}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[count]}"),
                _Shown(self.remaining),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
        return self._bar

    def _line(self, module: Any) -> str:
        """One step in one line, for files."""
        turns = int(module.turns)
        idle = module.idle.in_a_row
        step = f"step {self.trainer.global_step}" + (f" and {idle} batches without a step" if idle else "")
        parts = [step, self._turns(turns), *_shown(module.last_metrics)]
        return ", ".join([*parts, *self._time(turns)])

    def _turns(self, turns: int) -> str:
        budget = max(
            (one.max_turns for one in self.trainer.callbacks if isinstance(one, TurnBudget)),  # type: ignore[attr-defined]
            default=0,
        )
        return f"{turns}/{budget} turns" if budget else f"{turns} turns"

    def _time(self, turns: int) -> list[str]:
        left = self.remaining.left(share_done(self.trainer, turns), evaluations_left(self.trainer, turns))
        parts = [clock_text(self.remaining.elapsed)]
        return parts if left is None else [*parts, f"about {clock_text(left)} left"]


class _Shown(ProgressColumn):
    """Time that passes between two steps as well, and what is known of the last one."""

    def __init__(self, remaining: Remaining) -> None:
        super().__init__()
        self.remaining = remaining

    def render(self, task: Task) -> Text:
        """Of the row of the run; nothing for the work of the moment."""
        shown = task.fields["shown"]
        return Text("" if shown is None else clock_text(self.remaining.elapsed) + shown)


def _shown(metrics: Mapping[str, float]) -> list[str]:
    """The metrics in the line of a step, as far as they were measured."""
    names = {"rollout/success": "success", "train/loss": "loss"}
    values = {shown: metrics.get(name, math.nan) for name, shown in names.items()}
    return [f"{shown} {value:.3f}" for shown, value in values.items() if not math.isnan(value)]
