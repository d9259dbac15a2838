"""Rotary positions that depend on the length of the context.

With ``longrope`` a model rotates its keys with one set of frequencies up to some length, and with another beyond it. A
key in the cache from one side is wrong on the other side, and so is a short row in a batch with a long one. Here the
probability of a token depends on its own context only: the length of that context decides, as in ``generate`` of
transformers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def rope_switches(config: PretrainedConfig) -> tuple[int, ...]:
    """Lengths in tokens up to which one set of frequencies is used, in order; empty for most models.

    ``dynamic`` frequencies change with every token beyond ``max_position_embeddings``, where no context may be.
    """
    text: Any = config.get_text_config()
    found = {_last(rope, text) for rope in _settings(getattr(text, "rope_parameters", None) or {})}
    return tuple(sorted(found - {0}))


def stretch(length: int, switches: Sequence[int]) -> int:
    """Number of the set of frequencies for a context of ``length`` tokens.

    Example:
        >>> [stretch(length, (4096,)) for length in (1, 4096, 4097)]
        [0, 0, 1]
    """
    return bisect_left(switches, length)


def _settings(rope: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Settings of one kind of layer, or of each."""
    yield rope
    yield from (inner for inner in rope.values() if isinstance(inner, Mapping))


def _last(rope: Mapping[str, Any], text: Any) -> int:
    if rope.get("rope_type", rope.get("type")) != "longrope":
        return 0
    own = rope.get("original_max_position_embeddings")
    return int(own or getattr(text, "original_max_position_embeddings", 0) or text.max_position_embeddings)
