"""Checkpoints that are never half written: saved beside the old one, then put in its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from hero_pl.errors import HeroError


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
