"""The name under which a forward pass of transformers takes a cache of keys and values."""

from __future__ import annotations

import functools
import inspect
from typing import Any


def cache_input(model: Any, cache: Any) -> dict[str, Any]:
    """A cache as an input of a forward pass: transformers 5.24 calls it ``cache``, earlier ones ``past_key_values``.

    Args:
        model: A causal language model of transformers, or an adapter around one.
        cache: Any cache of transformers.
    """
    kind: Any = type(model.get_base_model() if hasattr(model, "get_base_model") else model)
    return {_cache_name(kind): cache}


@functools.cache
def _cache_name(model: Any) -> str:
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
