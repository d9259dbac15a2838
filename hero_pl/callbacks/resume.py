"""Find where to resume a run: its folder and the newest intact checkpoint in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from hero_pl.callbacks.checkpoints import DISCARDED, newest_verified, verify
from hero_pl.callbacks.run_folder import cut_back, holds
from hero_pl.callbacks.run_logger import RunLogger
from hero_pl.errors import ConfigError, HeroError


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a run is resumed."""

    folder: Path
    """Folder of the run."""
    checkpoint: Path | None
    """``None`` if the run ended before its first checkpoint: it starts again, in the same folder."""


def resume_point(resume: str, logger: RunLogger) -> ResumePoint | None:
    """Find the run and checkpoint for ``--resume``; ``None`` if there is none, so that a new run starts.

    Args:
        resume: ``never``, ``auto`` (the newest run of this name), the path of a checkpoint, or a run folder.
        logger: Logger of the run, with the folder and name of its runs.

    Raises:
        ConfigError: The checkpoint or folder does not exist, or the run has gone back to an earlier checkpoint since.
        HeroError: All checkpoints of the run are damaged.
    """
    if resume == "never":
        return None
    if resume != "auto":
        path = Path(resume)
        if path.is_file() and path.suffix == DISCARDED:
            raise ConfigError(
                f"--resume {resume}: its run went back to an earlier checkpoint, and the files of the run have no "
                f"longer what belongs to this one. Start a new run from it: --ckpt_path {resume}"
            )
        if path.is_file():
            verify(path)
            folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
            return ResumePoint(folder, path)
        if not path.is_dir():
            raise ConfigError(f"--resume {resume}: no such checkpoint or run folder. Give auto, never, or a path.")
        return ResumePoint(path, newest_of(path))
    folder_or_none = newest_run(logger)
    if folder_or_none is None:
        return None
    return ResumePoint(folder_or_none, newest_of(folder_or_none))


def newest_run(logger: RunLogger) -> Path | None:
    """Folder of the newest run of this name; with a fixed version, that folder, if it contains a run."""
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
    """Find the newest intact checkpoint of a run; damaged ones are reported.

    Raises:
        HeroError: All checkpoints are damaged.
    """
    path, refused = newest_verified(folder / "checkpoints")
    for reason in refused:
        rank_zero_info(reason)
    if path is None and refused:
        raise HeroError(
            f"All {len(refused)} checkpoints in {folder / 'checkpoints'} are damaged. Start a new run with --resume "
            "never."
        )
    return path


def continue_in(point: ResumePoint, logger: RunLogger) -> None:
    """Make the logger write to the folder of the resumed run; nothing in it is changed before it is locked."""
    logger.go_on_in(point.folder)
    rank_zero_info(f"Resuming the run in {point.folder} from {point.checkpoint or 'its start'}")


@rank_zero_only
def start_again(folder: Path) -> None:
    """Empty the files of a run that ended before its first checkpoint; the folder must be locked."""
    for line in cut_back(folder, {}):
        rank_zero_info(line)
