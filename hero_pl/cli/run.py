"""Set up the folder, the loggers and the checkpoint to resume from, for a run of ``fit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import yaml
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from hero_pl import __version__
from hero_pl.callbacks.checkpoints import read_settings
from hero_pl.callbacks.loggers import ShowRun, Wandb, beside
from hero_pl.callbacks.progress import RunProgress
from hero_pl.callbacks.resume import continue_in, newest_of, newest_run, resume_point, start_again
from hero_pl.callbacks.run_checkpoint import RunCheckpoint
from hero_pl.callbacks.run_logger import RunLogger
from hero_pl.callbacks.settings import compare_settings
from hero_pl.errors import ConfigError
from hero_pl.runs.provenance import note_start

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

RUN_LOGGER = "hero_pl.callbacks.run_logger.RunLogger"


def add_run_arguments(parser: LightningArgumentParser) -> None:
    """Add options for resuming and logging."""
    parser.add_argument(
        "--resume",
        type=str,
        default="never",
        help="fit: resume a run in its own folder: auto (the newest run of this name; starts a new one if there is "
        "none), a checkpoint or run folder, or never. (--ckpt_path starts a new run from a checkpoint.)",
    )
    parser.add_argument(
        "--resume_changed",
        type=bool,
        default=False,
        help="Resume even if tasks, seed, environment, policy or objective differ from those of the checkpoint.",
    )
    parser.add_argument("--tensorboard", type=bool, default=False, help="Also log to TensorBoard.")
    parser.add_argument("--wandb", type=Wandb | None, default=None, help="Also log to Weights & Biases.")


def use_run_logger(trainer: Any) -> None:
    """Use a configured CSV logger as the run's logger; other loggers are used in addition to it."""
    given = run_logger(trainer)
    if given is not None and given.class_path.rpartition(".")[2] == "CSVLogger":
        kept = {key: value for key, value in given.init_args.items() if key in ("save_dir", "name", "version")}
        given.class_path, given.init_args = RUN_LOGGER, type(given)(**kept)


def run_logger(trainer: Any) -> Any:
    """The first configured CSV logger, alone or in a list; ``None`` if there is none. It names the run folder."""
    named: list[Any] = [one for one in _loggers(trainer.get("logger")) if hasattr(one, "get") and one.get("class_path")]
    kinds = ("CSVLogger", RUN_LOGGER.rpartition(".")[2])
    return next((one for one in named if one.class_path.rpartition(".")[2] in kinds), None)


def open_run(cli: LightningCLI, trainer: dict[str, Any], callbacks: list[lightning.Callback]) -> str | None:
    """Complete the arguments of the trainer; return the checkpoint to start or resume from.

    Args:
        cli: The CLI with parsed arguments.
        trainer: Arguments of the trainer, with instances; changed in place.
        callbacks: Callbacks of every run; changed in place.

    Raises:
        ConfigError: The folder contains another run, there is nothing to resume, or settings have changed.
    """
    command = getattr(cli, "subcommand", None)
    keep = trainer.get("enable_checkpointing") is not False
    if not keep:
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, RunCheckpoint)]
    own = trainer.get("callbacks") or []
    trainer["enable_checkpointing"] = keep and any(
        isinstance(callback, lightning.pytorch.callbacks.Checkpoint) for callback in _listed(own)
    )
    if trainer.get("enable_progress_bar") is not False and not any(
        isinstance(one, ProgressBar) for one in _listed(own)
    ):
        callbacks.insert(0, RunProgress())
    given = trainer.get("logger")
    if given is False or command is None:
        return None
    logger = next((one for one in _loggers(given) if isinstance(one, RunLogger)), None) or RunLogger()
    config = cli.config[command]
    others = [one for one in _loggers(given) if one is not logger]
    trainer["logger"] = [logger, *others, *beside(logger, config.tensorboard, cli.config_init[command].wandb)]
    callbacks.append(ShowRun())
    if command != "fit":
        return _last(logger) if config.ckpt_path == "last" else None
    return _resume(cli, config, logger, callbacks)


def _resume(cli: Any, config: Any, logger: RunLogger, callbacks: list[lightning.Callback]) -> str | None:
    settings = yaml.safe_load(cli._parser("fit").dump(config, skip_none=False))
    keeper = next((one for one in callbacks if isinstance(one, RunCheckpoint)), None)
    if keeper is not None:
        keeper.settings = settings
    if config.ckpt_path and config.resume != "never":
        raise ConfigError(
            f"--ckpt_path {config.ckpt_path} starts a new run from a checkpoint, --resume {config.resume} resumes "
            "one in its folder. Give one of them."
        )
    point = resume_point(config.resume, logger)
    checkpoint = _last(logger) if config.ckpt_path == "last" else config.ckpt_path
    if point is not None:
        continue_in(point, logger)
        checkpoint = str(point.checkpoint) if point.checkpoint else None
    if checkpoint:
        cli.datamodule.accept_changes = config.resume_changed
        if point is None:
            rank_zero_info(f"Starting a new run in {logger.log_dir} from {checkpoint}")
            if keeper is not None:
                keeper.starts_from = Path(checkpoint)
        for line in compare_settings(read_settings(Path(checkpoint)), settings, config.resume_changed):
            rank_zero_info(f"Changed since the checkpoint: {line}")
    logger.check()  # from here on the folder is locked, and another run in it is refused
    if point is not None and point.checkpoint is None:
        start_again(point.folder)
    _note_start(Path(logger.log_dir), checkpoint)
    return checkpoint


@rank_zero_only
def _note_start(folder: Path, checkpoint: str | None) -> None:
    note_start(folder, __version__, checkpoint)


def _last(logger: RunLogger) -> str:
    folder = newest_run(logger)
    checkpoint = newest_of(folder) if folder is not None else None
    if checkpoint is None:
        raise ConfigError(
            f"--ckpt_path last: no run in {folder or logger.root_dir} has a checkpoint. Give the path of one, or leave "
            "it out to start from scratch."
        )
    return str(checkpoint)


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _loggers(given: Any) -> list[Logger]:
    return [] if given in (None, True, False) else list(given) if isinstance(given, (list, tuple)) else [given]
