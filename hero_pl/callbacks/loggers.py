"""TensorBoard and Weights & Biases in addition to ``metrics.csv``; their errors become warnings."""

from __future__ import annotations

import re
import secrets
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from hero_pl.callbacks.run_folder import run_folder
from hero_pl.callbacks.run_logger import RunLogger
from hero_pl.errors import ConfigError
from hero_pl.runs.records import read_records, records_path
from hero_pl.runs.viewer.terminal import plain

SAMPLES = 5
"""Number of sample episodes."""


@dataclass(frozen=True)
class Wandb:
    """Weights & Biases (needs the extra ``logs``; the key comes from its own ``wandb login`` or ``WANDB_API_KEY``).

    Args:
        project: Name of the project.
        entity: User or team; default: the owner of the key.
        offline: Write to the run folder only; ``wandb sync`` uploads it later.
        tags: Tags of the run.
    """

    project: str
    entity: str | None = None
    offline: bool = False
    tags: tuple[str, ...] = ()


class Beside(Logger):
    """An additional logger: its first error becomes a warning, and it is not used any more in this run.

    Args:
        name: Name of the service, for the warning.
        folder: Returns the run folder.
        make: Creates the logger on first use.
    """

    def __init__(self, name: str, folder: Callable[[], Path], make: Callable[[Path], Logger]) -> None:
        super().__init__()
        self._called, self._folder, self._make = name, folder, make
        self._logger: Logger | None = None
        self._failed = False

    @property
    def name(self) -> str:
        """Name of the service."""
        return self._called

    @property
    def version(self) -> str:
        """Version of the run, as in the run folder."""
        return self._folder().name

    def attempt(self, action: Callable[[Any], Any]) -> None:
        """Call ``action`` with the logger, unless it has failed before."""
        if self._failed:
            return
        try:
            if self._logger is None:
                self._logger = self._make(self._folder())
            action(self._logger)
        except Exception as error:
            # The services raise many kinds of errors; none may end a run, because the curves are in metrics.csv.
            self._failed = True
            message = str(error).splitlines()[0] if str(error) else ""
            warnings.warn(
                f"{self._called} failed ({type(error).__name__}: {without_keys(message)}) and is not used any more in "
                "this run. The curves are in metrics.csv.",
                stacklevel=2,
            )

    @lightning.pytorch.utilities.rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """See Lightning's ``Logger``."""
        self.attempt(lambda logger: logger.log_metrics(metrics, step))

    @lightning.pytorch.utilities.rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """See Lightning's ``Logger``."""
        self.attempt(lambda logger: logger.log_hyperparams(params, *args, **kwargs))

    @lightning.pytorch.utilities.rank_zero_only
    def save(self) -> None:
        """See Lightning's ``Logger``."""
        self.attempt(lambda logger: logger.save())

    @lightning.pytorch.utilities.rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the logger; it is created again if it is used again."""
        if self._logger is not None:
            self.attempt(lambda logger: _close(logger, status))
            self._logger = None


class ShowRun(lightning.Callback):
    """Sends the plotted curves and some episodes of a run to the additional loggers at the end of training."""

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Send the files of the run folder."""
        folder = run_folder(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, Beside):
                logger.attempt(lambda inner: show(inner, folder, trainer.global_step))


def show(logger: Logger, folder: Path, step: int) -> None:
    """Log the curves as an image, and sample episodes as a page or as text."""
    curves, records = folder / "curves.png", records_path(folder)
    page = records.with_suffix(".html")
    if isinstance(logger, WandbLogger):
        import wandb

        shown: dict[str, Any] = {}
        if curves.exists():
            shown["curves"] = wandb.Image(str(curves))
        if page.exists():
            shown["episodes"] = wandb.Html(page.read_text(encoding="utf-8"))
        if shown:
            logger.experiment.log(shown)
    elif isinstance(logger, TensorBoardLogger):
        if curves.exists():
            from matplotlib.image import imread

            logger.experiment.add_image("curves", imread(curves)[..., :3], step, dataformats="HWC")
        if records.exists():
            logger.experiment.add_text("episodes", samples(records), step)


def samples(records: Path) -> str:
    """The last episodes of a run as indented text, so that Markdown shows it literally."""
    lines: list[str] = []
    for record in deque(read_records(records), SAMPLES):
        episode = record.trajectory
        lines.append(f"{record.stage}, step {record.step}, task {episode.task_id}, reward {episode.reward:g}")
        for turn in episode.turns:
            lines += [f"  {turn.number} > {turn.text}", f"    < {turn.observation}"]
    return "\n".join(f"    {plain(line)}" for text in lines for line in text.splitlines())


def beside(logger: RunLogger, tensorboard: bool, wandb: Wandb | None) -> list[Logger]:
    """Create the additional loggers, each with its own folder inside the run folder.

    Raises:
        ConfigError: The package of a logger is not installed.
    """

    def folder() -> Path:
        return Path(logger.log_dir)

    loggers: list[Logger] = []
    if wandb is not None:
        _needs("wandb")
        loggers.append(Beside("Weights & Biases", folder, lambda run: _wandb(wandb, run)))
    if tensorboard:
        _needs("tensorboard")
        loggers.append(Beside("TensorBoard", folder, lambda run: TensorBoardLogger(run, "", "tensorboard")))
    return loggers


def without_keys(text: str) -> str:
    """The text with everything that looks like a key replaced."""
    return re.sub(r"\b(?=[\w-]*\d)[\w-]{20,}\b", "[key]", text)


def _wandb(settings: Wandb, folder: Path) -> Logger:
    """Create the logger; a resumed run keeps its id, which is stored in the run folder."""
    place = folder / "wandb_id.txt"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(secrets.token_hex(4), encoding="utf-8")
    parts = folder.parts[-2:]
    return WandbLogger(
        name="/".join(parts),
        save_dir=folder,
        project=settings.project,
        entity=settings.entity,
        offline=settings.offline,
        tags=list(settings.tags),
        id=place.read_text(encoding="utf-8").strip(),
        resume="allow",
    )


def _close(logger: Logger, status: str) -> None:
    logger.finalize(status)
    if isinstance(logger, WandbLogger):  # otherwise the next run of this process would log to this one
        logger.experiment.finish()


def _needs(package: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(f"--{package} needs the package {package}. Install it with: pip install 'hero_pl[logs]'")
