"""Writes weights for the servers; a folder is complete or does not exist."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from hero_pl.errors import PolicyError

HEAD = "head.safetensors"
"""File of an output projection that is tied to the input embeddings."""


def write_weights(root: Path, name: str, model: Any, initial: bool = False) -> Path:
    """Write the live weights, or the trained adapter; the folder gets its name when it is complete.

    Args:
        root: Created if it does not exist; the servers read it under the same path.
        name: Name of the new folder in ``root``.
        model: Model with the weights, or an adapter around one.
        initial: Write an adapter without effect instead: with it, the model has its initial weights.

    Returns:
        The folder, as an absolute path.

    Raises:
        PolicyError: It cannot be written.
    """
    target, partial = (root / name).resolve(), (root / f"{name}.partial").resolve()
    try:
        partial.mkdir(parents=True)
        with _no_progress_bar():
            model.save_pretrained(partial, **({"state_dict": _without_effect(model)} if initial else {}))
        if not hasattr(model, "get_base_model"):
            _add_tied_head(partial, model)
        os.rename(partial, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise PolicyError(
            f"Writing the weights for the servers to {target} failed: {error}. Free some space, or set "
            "sampler.init_args.folder to another folder."
        ) from error
    return target


def _without_effect(model: Any) -> dict[str, torch.Tensor]:
    """State of a model whose adapter adds zero: the second factors are zero."""
    weights = model.state_dict()
    return {name: torch.zeros_like(value) if "lora_B" in name else value for name, value in weights.items()}


def _add_tied_head(folder: Path, model: Any) -> None:
    """Write an output projection that is tied to the input embeddings, too; transformers writes the embeddings only.

    vLLM 0.32 on a CPU computes with a reordered copy of it, which it makes again only if it is in the folder.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return
    (name,) = (name for name, module in model.named_modules() if module is head)
    save_file({f"{name}.weight": head.weight.detach().contiguous()}, folder / HEAD)
    index = folder / "model.safetensors.index.json"
    if index.exists():  # of weights in several files; others are not read
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"][f"{name}.weight"] = HEAD
        index.write_text(json.dumps(content), encoding="utf-8")


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """A progress bar for every optimizer step would hide all other output."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def remove_weights(folder: Path) -> None:
    """Delete a folder that no server needs any more; if that fails, the folder stays."""
    shutil.rmtree(folder, ignore_errors=True)
