"""Checkpoints: when a run saves itself, and files that are never half written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from hero_pl.errors import ConfigError, HeroError


class RunCheckpoint(ModelCheckpoint):
    """Keeps the newest state of a run, saves the last one at its end, and says after a break how to go on.

    Args:
        every_n_steps: Optimizer steps between two saves; what was done since the last one is lost in a break.
    """

    def __init__(self, every_n_steps: int = 25) -> None:
        if every_n_steps < 1:
            raise ConfigError(
                f"checkpoint.every_n_steps={every_n_steps}: at least 1. To save nothing: "
                "trainer.enable_checkpointing: false."
            )
        super().__init__(every_n_train_steps=every_n_steps, save_top_k=1)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the end."""
        if self.dirpath is not None:
            trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")

    def on_exception(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: Any) -> None:
        """Name what is kept."""
        if self.best_model_path:
            rank_zero_info(f"Stopped by {type(exception).__name__}. Go on with --ckpt_path {self.best_model_path}")
        else:
            rank_zero_info(f"Stopped by {type(exception).__name__} before the first checkpoint.")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files; a full disk costs the new checkpoint, never the old one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write to ``path.partial``, then rename.

        Raises:
            HeroError: The disk refuses; names the file and what is safe.
        """
        target = Path(path)
        partial = target.with_name(target.name + ".partial")
        try:
            super().save_checkpoint(checkpoint, str(partial), storage_options)
            os.replace(partial, target)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise HeroError(
                f"The checkpoint {target} could not be written: {error}. Earlier checkpoints are whole. Free some "
                "space, then resume from the latest with --ckpt_path."
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            HeroError: It is missing or damaged.
        """
        import pickle
        import zipfile

        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            # What torch says about a foreign pickle is advice to switch its protection off; do not pass that on.
            foreign = isinstance(error, pickle.UnpicklingError)
            said = "it holds something else than tensors" if foreign else (str(error) or repr(error)).splitlines()[0]
            raise HeroError(
                f"The checkpoint {path} cannot be read: {said}. It is "
                "missing or damaged; resume from an earlier one in the same folder, or start without --ckpt_path."
            ) from error
