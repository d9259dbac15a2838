"""Find what a run goes on from: the folder, and the newest checkpoint in it that is whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from hero_pl.callbacks.checkpoints import newest_verified, verify
from hero_pl.callbacks.run_folder import cut_back, holds
from hero_pl.callbacks.run_logger import RunLogger
from hero_pl.errors import ConfigError, HeroError


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a run goes on."""

    folder: Path
    """Of the run."""
    checkpoint: Path | None
    """``None`` where the run was ended before its first checkpoint: it starts again, in the same folder."""


def resume_point(resume: str, logger: RunLogger) -> ResumePoint | None:
    """What ``--resume`` asks for; ``None`` if there is nothing to go on with, so that the run starts.

    Args:
        resume: ``never``, ``auto`` for the newest run of this name, a checkpoint, or the folder of a run.
        logger: Knows where runs of this name are.

    Raises:
        ConfigError: There is no such checkpoint.
        HeroError: No checkpoint of the run is whole.
    """
    if resume == "never":
        return None
    if resume != "auto":
        path = Path(resume)
        if path.is_file():
            verify(path)
            folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
            return ResumePoint(folder, path)
        if not path.is_dir():
            raise ConfigError(f"--resume {resume}: there is no such checkpoint or run. Give auto, never, or a path.")
        return ResumePoint(path, newest_of(path))
    folder_or_none = newest_run(logger)
    if folder_or_none is None:
        return None
    return ResumePoint(folder_or_none, newest_of(folder_or_none))


def newest_run(logger: RunLogger) -> Path | None:
    """The folder of the newest run of this name, or the one that the configuration names, if it holds a run."""
    if logger.fixed:
        folders = [Path(logger.log_dir)]
    else:
        numbered = {
            path: int(path.name.removeprefix("version_"))
            for path in Path(logger.root_dir).glob("version_*")
            if path.name.removeprefix("version_").isdigit()
        }
        folders = sorted(numbered, key=lambda path: numbered[path], reverse=True)
    return next((folder for folder in folders if holds(folder)), None)


def newest_of(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; those that are damaged are named.

    Raises:
        HeroError: All are damaged.
    """
    path, refused = newest_verified(folder / "checkpoints")
    for reason in refused:
        rank_zero_info(reason)
    if path is None and refused:
        raise HeroError(
            f"No checkpoint in {folder / 'checkpoints'} is whole ({len(refused)} were tried). Start a new run with "
            "--resume never."
        )
    return path


def continue_in(point: ResumePoint, logger: RunLogger) -> None:
    """Let the logger write to the run that goes on."""
    logger.go_on_in(point.folder)
    if point.checkpoint is None:
        for line in cut_back(point.folder, {}):
            rank_zero_info(line)
    rank_zero_info(f"Resuming the run in {point.folder} from {point.checkpoint or 'its start'}")
