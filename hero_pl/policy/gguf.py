"""Models in one GGUF file (llama.cpp's format): what ``from_pretrained`` needs to read it, and a plain model of it."""

from __future__ import annotations

import copy
import importlib.util
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hero_pl.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUFFIX = ".gguf"
UNREADABLE = (struct.error, LookupError, TypeError)
"""What transformers raises about a file that is cut off or damaged, besides ``OSError`` and ``ValueError``."""


def is_gguf(name: str | None) -> bool:
    """Whether a checkpoint is named as a GGUF file.

    Example:
        >>> is_gguf("models/SmolLM2.Q4_1.gguf"), is_gguf("owner/model")
        (True, False)
    """
    return name is not None and name.lower().endswith(SUFFIX)


def source(name: str) -> tuple[str, dict[str, str]]:
    """What ``from_pretrained`` takes: folder or hub id, and for a GGUF file its folder and its name.

    Args:
        name: Folder, hub id, or GGUF file.

    Raises:
        ConfigError: It is a GGUF file, and the package ``gguf`` is missing.
    """
    if not is_gguf(name):
        return name, {}
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(f"Reading {name} needs the package gguf: pip install 'hero_pl[gguf]'.")
    path = Path(name)
    return str(path.parent), {"gguf_file": path.name}


def plain(read: PreTrainedModel, attention: str) -> PreTrainedModel:
    """A model with the weights of one that was read from GGUF; transformers neither trains nor saves the latter.

    Args:
        read: Model from a GGUF file, with unpacked weights.
        attention: Attention implementation of transformers.
    """
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, attn_implementation=attention, dtype=read.dtype
    )
    model.load_state_dict(read.state_dict())
    return model  # type: ignore[no-any-return]


def unpacked() -> dict[str, Any]:
    """Settings of ``from_pretrained`` by which no weight stays packed; older versions always unpack."""
    import transformers

    settings = getattr(transformers, "GgufConfig", None)
    return {} if settings is None else {"quantization_config": settings(dequantize=True)}
