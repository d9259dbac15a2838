"""Messages of Lightning and transformers that are wrong or say nothing about a run of this project."""

from __future__ import annotations

import logging
import re
import sys
import warnings

WRONG_WARNINGS = (
    "Unable to serialize instance",  # config.yaml is written from the parsed configuration
    "isinstance\\(treespec",
    "does not have many workers",  # the loader yields step numbers
    "dataloader. is not resumable",
    "your dataloader is not resumable",  # the data module keeps the number of batches; a resumed run is bit-equal
    "Trying to infer the .batch_size",
    "Using ModelCheckpoint with manual optimization",
    "callbacks used to create the checkpoint need to be provided",  # settings are compared by the project itself
)
"""Beginnings or parts of warnings; regular expressions."""
EMPTY_LINES = (
    r"Tip: ",  # advertisements
    r"^[TG]PU available: False",
    r"^HPU available: False",
    r"`Trainer\.\w+` stopped: `max_\w+=.*` reached",  # the progress says how training ended
    r"^(Restoring|Restored all) states from the checkpoint",  # said before, with what is resumed
)
"""Lines that Lightning logs; regular expressions."""


def quiet() -> None:
    """Leave them out; progress bars of transformers are drawn in a terminal only."""
    for text in WRONG_WARNINGS:
        warnings.filterwarnings("ignore", message=f"(?s).*{text}")
    talk = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    if not any(isinstance(one, _Empty) for one in talk.filters):
        talk.addFilter(_Empty())
    if not sys.stderr.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]


class _Empty(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(re.search(pattern, record.getMessage()) for pattern in EMPTY_LINES)
