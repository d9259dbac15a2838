"""Save checkpoints of a run: always the state after the last completed step, also if the run is interrupted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from hero_pl.callbacks.children import AGREED_S, ALONE_S, end, take_over
from hero_pl.callbacks.interrupts import Interrupted, Interrupts
from hero_pl.callbacks.run_folder import cut_back, run_folder, sizes
from hero_pl.errors import ConfigError, HeroError


class RunCheckpoint(lightning.Callback):
    """Saves the newest state of a run, also if a signal or an error ends it, and prints how to resume.

    It saves the state after the last completed step, in ``checkpoints`` of the run folder: ``step=N.ckpt``, and
    ``last.ckpt`` at the end. A resumed run repeats the interrupted step. Place this callback before callbacks that
    report, so that they run after the save.

    Args:
        every_n_steps: Optimizer steps between two saves.
        every_minutes: Also save after this many minutes, for long steps; 0 to save by steps only.
        keep: Number of checkpoints to keep; if the newest is damaged, the previous one is used.
    """

    def __init__(self, every_n_steps: int = 25, every_minutes: float = 10.0, keep: int = 2) -> None:
        if every_n_steps < 1 or every_minutes < 0.0 or keep < 1:
            raise ConfigError(
                f"checkpoint.every_n_steps={every_n_steps}, every_minutes={every_minutes}, keep={keep}: expected at "
                "least 1, 0 and 1. To save nothing: trainer.enable_checkpointing: false."
            )
        self.every_n_steps, self.every_minutes, self.keep = every_n_steps, every_minutes, keep
        self.settings: dict[str, Any] = {}
        """Configuration of the run, saved in its checkpoints; set by the command line."""
        self.newest: Path | None = None
        """Path of the last saved checkpoint."""
        self._interrupts = Interrupts()
        self._whole: dict[str, Any] | None = None
        """Checkpoint of the last completed step; its large tensors are references, not copies."""
        self._applying = False
        """Whether weights have changed since ``_whole`` was taken."""
        self._saved_step, self._saved_at = -1, 0.0

    # -- around training ---------------------------------------------------------------------------------------

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Install the signal handlers."""
        launcher: Any = trainer.strategy.launcher
        self._interrupts.listen(getattr(launcher, "kill", lambda number: None))
        self._interrupts.held = trainer.world_size > 1  # all ranks have to stop at the same step
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        if trainer.is_global_zero:
            for partial in self._folder(trainer).glob("*.partial"):  # left by a process that was killed
                partial.unlink(missing_ok=True)

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Record the state before the first step."""
        if self._whole is None:
            self._take(trainer)

    def on_before_optimizer_step(self, trainer: lightning.Trainer, module: Any, optimizer: Any) -> None:
        """Hold signals from here to the end of the batch."""
        self._applying = self._interrupts.held = True

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *args: Any) -> None:
        """Record the completed step; save it if due, and stop if a signal was received."""
        self._interrupts.held = True
        self._take(trainer)
        self._applying = False
        steps = trainer.global_step - self._saved_step
        late = bool(self.every_minutes) and time.monotonic() - self._saved_at >= 60.0 * self.every_minutes
        if trainer.strategy.reduce_boolean_decision(bool(steps) and (steps >= self.every_n_steps or late), all=False):
            self._save(trainer, f"step={trainer.global_step}.ckpt")
        if trainer.world_size == 1:
            self._interrupts.release()
        elif trainer.strategy.reduce_boolean_decision(self._interrupts.received is not None, all=False):
            if not _whole_on_each_rank(trainer) and self._saved_step != trainer.global_step:
                self._save(trainer, f"step={trainer.global_step}.ckpt")  # while all ranks are here
            raise Interrupted(self._interrupts.received or 15)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Save the final state before other callbacks report."""
        self._interrupts.held = True
        if self._whole is None:  # a finished run that was resumed
            self._take(trainer)
        self._save(trainer, "last.ckpt")
        if trainer.world_size == 1:
            self._interrupts.release()

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        """Save the last completed step, if its weights are unchanged, print how to resume, and end other processes."""
        children = take_over(trainer.strategy.launcher)
        why = exception.name if isinstance(exception, Interrupted) else type(exception).__name__
        step = None if self._whole is None else int(self._whole["global_step"])
        savable = step is not None and not self._applying and _whole_on_each_rank(trainer)
        if savable and (self.newest is None or step != self._saved_step):
            try:
                self._save(trainer, f"step={step}.ckpt", together=False)
            except HeroError as error:
                rank_zero_info(str(error))
        if self.newest is None:
            rank_zero_info(f"Stopped by {why} before the first checkpoint. Start the run again with the same command.")
        else:
            rank_zero_info(f"Stopped by {why}. Resume with --resume {self.newest}")
        end(children, AGREED_S if isinstance(exception, Interrupted) else ALONE_S)

    def teardown(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        """Restore the previous signal handlers."""
        self._interrupts.stop_listening()

    # -- saving ------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the settings and the sizes of the run's files."""
        folder = run_folder(trainer)
        # Lightning writes the metrics of this step later; the checkpoint includes the step, so it needs its metrics
        metrics = trainer.logged_metrics if trainer.training else {}
        row = {name: float(value) for name, value in metrics.items() if not name.startswith("val/")}  # of another row
        checkpoint["run"] = {"settings": self.settings, "files": sizes(folder) if folder else {}, "row": row}

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """If a run is resumed in its own folder, remove what its files got after the checkpoint."""
        folder, path = run_folder(trainer), Path(str(trainer.ckpt_path)).resolve()
        resuming = trainer.state.fn == "fit" and trainer.is_global_zero
        if folder is None or not resuming or folder.resolve() not in path.parents:
            return
        self.newest = path
        if 0 < trainer.max_steps <= int(checkpoint["global_step"]):  # nothing will be trained or evaluated again
            rank_zero_info(f"The run is complete: it has made its {trainer.max_steps} steps (trainer.max_steps).")
            return
        for line in cut_back(folder, checkpoint["run"]["files"]):
            rank_zero_info(line)
        row = {"epoch": checkpoint["epoch"], "step": checkpoint["global_step"], **checkpoint["run"]["row"]}
        if checkpoint["run"]["row"] and trainer.logger is not None:
            trainer.logger.log_metrics(row, step=int(row.pop("step")))
            trainer.logger.save()

    def _take(self, trainer: lightning.Trainer) -> None:
        """Record the current state; sharded weights are gathered only when they are saved."""
        if not _whole_on_each_rank(trainer):
            self._whole = {"global_step": trainer.global_step}
            return
        state = trainer._checkpoint_connector.dump_checkpoint(False)  # as trainer.save_checkpoint does
        self._whole = {name: _apart(value, name in ("state_dict", "optimizer_states")) for name, value in state.items()}

    def _save(self, trainer: lightning.Trainer, name: str, together: bool = True) -> None:
        """Write the recorded state.

        Args:
            trainer: Trainer of the run.
            name: File name.
            together: Whether all ranks call this; false after an error on one rank.
        """
        assert self._whole is not None
        path = self._folder(trainer) / name
        if _whole_on_each_rank(trainer):
            trainer.strategy.save_checkpoint(self._whole, path)
            if together:
                trainer.strategy.barrier("RunCheckpoint")
        else:
            trainer.save_checkpoint(path)
        self.newest, self._saved_step, self._saved_at = path, int(self._whole["global_step"]), time.monotonic()
        if trainer.is_global_zero:
            saved = sorted(path.parent.glob("*.ckpt"), key=lambda file: (file == path, file.stat().st_mtime_ns))
            for old in saved[: -self.keep]:
                old.unlink(missing_ok=True)

    def _folder(self, trainer: lightning.Trainer) -> Path:
        return (run_folder(trainer) or Path(trainer.default_root_dir)) / "checkpoints"


def _whole_on_each_rank(trainer: lightning.Trainer) -> bool:
    """Whether each rank has the full state and can save it without the others."""
    return isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy))


def _apart(value: Any, large: bool) -> Any:
    """Copy all containers and small tensors; large tensors are kept, they change only while a step is applied."""
    if isinstance(value, Mapping):
        return {key: _apart(one, large or key == "copies") for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_apart(one, large) for one in value)
    if isinstance(value, Tensor):
        return value if large else value.clone()
    return value
