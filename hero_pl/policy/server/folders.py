"""Weights on their way to the servers: a folder that is whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hero_pl.errors import PolicyError

if TYPE_CHECKING:
    from hero_pl.policy.network import Network


def write_weights(root: Path, name: str, network: Network) -> Path:
    """Write the live weights, or the adapter that is trained, and give the folder its name when it is whole.

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
        with _no_progress_bar():
            network.model.save_pretrained(partial)
        os.rename(partial, target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise PolicyError(
            f"Writing the weights for the servers to {target} failed: {error}. Free some space, or set "
            "sampler.init_args.folder to another folder."
        ) from error
    return target


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """One for every optimizer step would cover everything else."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def remove_weights(folder: Path) -> None:
    """Delete a folder that no server needs any more; one that cannot be deleted is left there."""
    shutil.rmtree(folder, ignore_errors=True)
