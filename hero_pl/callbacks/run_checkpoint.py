"""Save checkpoints of a run: always the state after the last completed step, also if the run is interrupted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from hero_pl.callbacks.checkpoints import discard_later, read_progress
from hero_pl.callbacks.children import AGREED_S, ALONE_S, end, take_over
from hero_pl.callbacks.interrupts import Interrupted, Interrupts
from hero_pl.callbacks.run_folder import cut_back, resumed_folder, run_folder, sizes
from hero_pl.callbacks.spent import note_spent
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.errors import ConfigError, HeroError


class RunCheckpoint(lightning.Callback):
    """Saves the newest state of a run, also if a signal or an error ends it, and prints how to resume.

    It saves the state after the last completed step, in ``checkpoints`` of the run folder: ``step=N.ckpt``, and
    ``last.ckpt`` at the end, before the last evaluation and the report and again after them. A resumed run repeats
    the interrupted step, or report. Place this callback before callbacks that report, so that they run after the save.

    Args:
        every_n_steps: Optimizer steps between two saves; a batch without one counts as a step.
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
        self.starts_from: Path | None = None
        """Checkpoint that a new run starts from; set by the command line."""
        self.newest: Path | None = None
        """Path of the last saved checkpoint."""
        self._interrupts = Interrupts()
        self._whole: dict[str, Any] | None = None
        """Checkpoint of the last completed step; its large tensors are references, not copies."""
        self._applying = False
        """Whether weights have changed since ``_whole`` was taken."""
        self._taken: tuple[int, int] | None = None
        """Optimizer steps and batches of ``_whole``; a batch without a step has played episodes, too."""
        self._saved, self._saved_at = (-1, -1), 0.0
        self._end: Literal["", "reached", "reported"] = ""
        """How far the end of the run has come: all steps are made, all callbacks have reported it."""
        self._unreported: int | None = None
        """Optimizer steps of the checkpoint of a resumed run, unless its report was made."""
        self._lifted: tuple[int, bool] | None = None
        """``max_steps`` and ``should_stop`` until such a run has begun."""

    # -- around training ---------------------------------------------------------------------------------------

    def setup(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        """Listen to what the callbacks after this one have done.

        Raises:
            ConfigError: A new run from a checkpoint would train nothing.
        """
        if stage == "fit" and self.starts_from is not None and trainer.is_global_zero:  # before a model is loaded
            _check_limits(trainer, self.starts_from, *read_progress(self.starts_from))
        self._end, self._unreported, self._lifted = "", None, None
        if not any(isinstance(one, _AfterOthers) for one in trainer.callbacks):  # type: ignore[attr-defined]
            trainer.callbacks.append(_AfterOthers(self))  # type: ignore[attr-defined]

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Install the signal handlers."""
        self._end = ""
        if self._lifted is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._lifted[0]
            trainer.should_stop = trainer.should_stop or self._lifted[1]
            self._lifted = None
        launcher: Any = trainer.strategy.launcher
        self._interrupts.listen(getattr(launcher, "kill", lambda number: None))
        self._interrupts.held = trainer.world_size > 1  # all ranks have to stop at the same step
        self._saved, self._saved_at = _position(trainer), time.monotonic()
        if trainer.is_global_zero:
            for partial in self._folder(trainer).glob("*.partial"):  # left by a process that was killed
                partial.unlink(missing_ok=True)

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Record the state before the first step."""
        if self._whole is None:
            self._take(trainer)

    def on_before_optimizer_step(self, trainer: lightning.Trainer, module: Any, optimizer: Any) -> None:
        """Hold signals from here to the end of the batch."""
        self.weights_change()

    def weights_change(self) -> None:
        """Hold signals, and save nothing, to the end of the batch: the weights are no longer those of a whole step."""
        self._applying = self._interrupts.held = True

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *args: Any) -> None:
        """Record the completed step; save it if due, and stop if a signal was received."""
        self._interrupts.held = True
        self._take(trainer)
        self._applying = False
        self._note_spent(trainer, module)
        steps = max(now - saved for now, saved in zip(_position(trainer), self._saved, strict=True))
        late = bool(self.every_minutes) and time.monotonic() - self._saved_at >= 60.0 * self.every_minutes
        if trainer.strategy.reduce_boolean_decision(bool(steps) and (steps >= self.every_n_steps or late), all=False):
            self._save(trainer, f"step={trainer.global_step}.ckpt")
        if trainer.world_size == 1:
            self._interrupts.release()
        elif trainer.strategy.reduce_boolean_decision(self._interrupts.received is not None, all=False):
            if not _whole_on_each_rank(trainer) and self._saved != _position(trainer):
                self._save(trainer, f"step={trainer.global_step}.ckpt")  # while all ranks are here
            raise Interrupted(self._interrupts.received or 15)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Save the final state before other callbacks report."""
        self._interrupts.held, self._end = True, "reached"
        if self._whole is None:  # a finished run that was resumed
            self._take(trainer)
        self._save(trainer, "last.ckpt")
        if trainer.world_size == 1:
            self._interrupts.release()

    def after_report(self, trainer: lightning.Trainer) -> None:
        """Save the final state again, with the last evaluation: the run is complete."""
        assert self._whole is not None
        self._interrupts.held, self._end = True, "reported"
        for logger in trainer.loggers:
            logger.save()  # the rows of the evaluation, before the file is measured
        if _whole_on_each_rank(trainer):
            state = trainer._checkpoint_connector.dump_checkpoint(False)
            # the loops stay as they were after the last batch, so that the run can be extended
            changed = ("callbacks", "run", type(trainer.datamodule).__qualname__)  # type: ignore[attr-defined]
            self._whole |= {name: _apart(state[name], False) for name in changed if name in state}
        self._save(trainer, "last.ckpt")
        if trainer.world_size == 1:
            self._interrupts.release()

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        """Save the last completed step, if its weights are unchanged, print how to resume, and end other processes."""
        children = take_over(trainer.strategy.launcher)
        why = exception.name if isinstance(exception, Interrupted) else type(exception).__name__
        taken = self._taken
        savable = taken is not None and not self._applying and _whole_on_each_rank(trainer)
        if taken is not None:  # else the counts of a resumed run may not be loaded yet
            try:
                self._note_spent(trainer, module)
            except HeroError as error:
                rank_zero_info(str(error))
        if taken is not None and savable and (self.newest is None or taken != self._saved):
            try:
                self._save(trainer, f"step={taken[0]}.ckpt", together=False)
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
        metrics = trainer.logged_metrics if trainer.training and not self._end else {}
        row = {name: float(value) for name, value in metrics.items() if not name.startswith("val/")}  # of another row
        files = sizes(folder) if folder else {}
        reported = self._end == "reported"
        checkpoint["run"] = {"settings": self.settings, "files": files, "row": row, "reported": reported}

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """If a run is resumed in its own folder, remove what its files got after it; set later checkpoints aside.

        Raises:
            ConfigError: A new run would train nothing, or the checkpoint was written without this callback.
        """
        if trainer.state.fn != "fit" or run_folder(trainer) is None:
            return
        folder, path = resumed_folder(trainer), Path(str(trainer.ckpt_path)).resolve()
        if folder is None:
            _check_limits(trainer, path, int(checkpoint["global_step"]), int(checkpoint["hero"]["turns"]))
            return
        if "run" not in checkpoint:
            raise ConfigError(
                f"{path} was written without RunCheckpoint: it does not say how long the files of its run were. Start "
                "a new run from it, in another folder (trainer.logger.init_args.name)."
            )
        run = checkpoint["run"]
        made = f"it has made its {trainer.max_steps} steps (trainer.max_steps)"
        over = 0 < trainer.max_steps <= int(checkpoint["global_step"])
        if run.get("reported", False):  # also false in those of older versions
            self._end = "reported"
        else:
            self._unreported = int(checkpoint["global_step"])
            self.let_report(trainer)
        if not trainer.is_global_zero:
            return
        self.newest = path
        if over and self._end == "reported":  # nothing will be trained or evaluated again
            rank_zero_info(f"The run is complete: {made}.")
            return
        if over:
            rank_zero_info(f"The run was interrupted before its last evaluation and report: {made}. They are made now.")
        for line in (
            *discard_later(folder / "checkpoints", path),
            *cut_back(folder, run["files"]),
        ):
            rank_zero_info(line)
        row = {"epoch": checkpoint["epoch"], "step": checkpoint["global_step"], **run["row"]}
        if run["row"] and trainer.logger is not None:
            trainer.logger.log_metrics(row, step=int(row.pop("step")))
            trainer.logger.save()

    def let_report(self, trainer: lightning.Trainer) -> None:
        """Let Lightning begin a resumed run without further steps, until it has reported: else it calls no callback."""
        if self._unreported is None:
            return
        loop = trainer.fit_loop.epoch_loop
        limit, stop = self._lifted or (loop.max_steps, False)
        self._lifted = limit, stop or trainer.should_stop
        loop.max_steps = self._unreported + 1 if 0 < limit <= self._unreported else limit
        trainer.should_stop = False

    def _take(self, trainer: lightning.Trainer) -> None:
        """Record the current state; sharded weights are gathered only when they are saved."""
        self._taken = _position(trainer)
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
        assert self._taken is not None
        path = self._folder(trainer) / name
        if _whole_on_each_rank(trainer):
            trainer.strategy.save_checkpoint(self._whole, path)
            if together:
                trainer.strategy.barrier("RunCheckpoint")
        else:
            trainer.save_checkpoint(path)
        self.newest, self._saved, self._saved_at = path, self._taken, time.monotonic()
        if trainer.is_global_zero:
            saved = sorted(path.parent.glob("*.ckpt"), key=lambda file: (file == path, file.stat().st_mtime_ns))
            for old in saved[: -self.keep]:
                old.unlink(missing_ok=True)

    def _note_spent(self, trainer: lightning.Trainer, module: Any) -> None:
        folder = run_folder(trainer)
        if trainer.is_global_zero and folder is not None:
            note_spent(folder, module.objective.state_dict())

    def _folder(self, trainer: lightning.Trainer) -> Path:
        return (run_folder(trainer) or Path(trainer.default_root_dir)) / "checkpoints"


class _AfterOthers(lightning.Callback):
    """The last callback of a run."""

    def __init__(self, keeper: RunCheckpoint) -> None:
        self.keeper = keeper

    def on_fit_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """A timer may have stopped the run."""
        self.keeper.let_report(trainer)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Every callback has reported."""
        self.keeper.after_report(trainer)


def _check_limits(trainer: lightning.Trainer, path: Path, steps: int, turns: int) -> None:
    """Refuse a new run whose limits its checkpoint has reached.

    Args:
        trainer: Trainer of the run.
        path: The checkpoint.
        steps: Its optimizer steps.
        turns: Its training turns.

    Raises:
        ConfigError: Nothing would be trained; the message has the limit and what the checkpoint has.
    """
    budgets = [one.max_turns for one in trainer.callbacks if isinstance(one, TurnBudget)]  # type: ignore[attr-defined]
    limits = [("trainer.max_steps", trainer.max_steps, steps, "optimizer steps")]
    limits += [("turn_budget.max_turns", most, turns, "training turns") for most in budgets]
    for name, most, made, what in limits:
        if 0 < most <= made:
            raise ConfigError(
                f"{name}={most}: the checkpoint {path} has {made} {what}, which count for the new run, so it would "
                f"train nothing. Set {name} higher, or continue the run of the checkpoint with --resume {path}."
            )


def _position(trainer: Any) -> tuple[int, int]:
    """Optimizer steps and training batches so far."""
    return int(trainer.global_step), int(getattr(trainer.datamodule, "steps", 0))


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
