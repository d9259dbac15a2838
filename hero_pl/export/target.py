"""The folder of an exported model: refused before anything is loaded, and freed of the weights of an earlier export."""

from __future__ import annotations

import re
from pathlib import Path

from hero_pl.export.model_card import CARD_FILE
from hero_pl.runs.folders import must_be_new

CURE = "Weights go into a folder of their own, as others would be loaded with them: name a new one, or remove it."
OURS = (r"^\s*- hero_pl$", r"^library_name:")
"""In the metadata of every model card that is written here; a card of a data set names no library."""
WEIGHTS = (
    "adapter_config.json",
    "adapter_model.*",
    "config.json",
    "model.safetensors*",
    "model-*.safetensors",
    "pytorch_model*.bin",
)
"""Files that decide which weights are loaded from a folder."""


def check_target(folder: Path, run: Path | None = None) -> None:
    """Refuse a folder that has files and is no earlier export: it has no model card of this package.

    In the folder of the run, an export that broke off before its card counts as well.

    Args:
        folder: Folder to write to.
        run: Folder of the run that writes to it.

    Raises:
        ConfigError: It has files, a file is in the way, or it cannot be written.
    """
    if not (folder.is_dir() and _is_earlier(folder, run)):
        must_be_new(folder, CURE)


def remove_earlier(folder: Path, run: Path | None) -> None:
    """Remove the weights of an earlier export of a run, so that none of them is loaded with the new ones."""
    if _is_earlier(folder, run):
        for pattern in WEIGHTS:
            for path in folder.glob(pattern):
                path.unlink()


def _is_earlier(folder: Path, run: Path | None) -> bool:
    card = folder / CARD_FILE
    if not card.is_file():  # an export that broke off before its card
        return run is not None and run.resolve() in folder.resolve().parents
    head = card.read_text(encoding="utf-8", errors="replace").partition("\n---\n")[0]
    return head.startswith("---\n") and all(re.search(line, head, re.MULTILINE) for line in OURS)
