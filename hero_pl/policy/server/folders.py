"""Weights on their way to the servers: a folder that is whole or not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hero_pl.errors import PolicyError

if TYPE_CHECKING:
    from hero_pl.policy.network import Network


def write_weights(root: Path, name: str, network: Network) -> Path:
    """Write the live weights, of an adapter only the adapter, under another name and rename the folder when it is whole.

    Args:
        root: Made if it is missing; the servers read it under the same path.
        name: Of the folder in ``root``; there is none of that name.
        network: With the weights.

    Returns:
        The folder, as an absolute path.

    Raises:
        PolicyError: It cannot be written.
    """
    target, partial = (root / name).resolve(), (root / f"{name}.partial").resolve()
    try:
        partial.mkdir(parents=True)
        network.model.save_pretrained(partial)
        os.rename(partial, target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise PolicyError(
            f"Writing the weights for the servers to {target} failed: {error}. Free some space, or set "
            "sampler.init_args.folder to another folder."
        ) from error
    return target


def remove_weights(folder: Path) -> None:
    """Delete a folder that no server needs any more; one that cannot be deleted is left there."""
    shutil.rmtree(folder, ignore_errors=True)
