"""Attention of a few new tokens to many old ones: heads that share keys are queries of one group.

For a prompt that is read behind a cache, the attention of transformers copies all old keys and values to the number of
query heads. In bfloat16 on a CPU, the kernel of torch is several times slower than two matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

ATTENTION = "hero_pl_sampling"
"""Name of this attention in transformers."""
FEW_QUERIES = 64
"""New tokens per row up to which this is faster."""


def suits(model: Any) -> bool:
    """Whether the network uses the attention that is replaced, on a CPU."""
    return str(_config(model)._attn_implementation) == "sdpa" and next(model.parameters()).device.type == "cpu"


@contextmanager
def attention_in(model: Any, name: str, attention: Any, masks: str | None = None) -> Iterator[None]:
    """Let a network use an attention function.

    Args:
        model: A causal language model of transformers, or an adapter around one.
        name: Name under which transformers finds the function.
        attention: Takes and returns what the attention functions of transformers do.
        masks: Name of the attention whose form of masks it takes; default: masks are passed on as they are.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(name, attention)
    if masks is not None:
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[masks])
    config = _config(model)
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of a few new tokens to all tokens of their rows; other passes get the network's own.

    Args:
        module: The layer.
        query: ``(rows, heads, new, head size)``.
        key: ``(rows, key heads, slots, head size)``.
        value: As ``key``.
        attention_mask: ``(rows, 1, new, slots)``, True where a token is seen; ``None`` if all are.
        scaling: Factor of the attention scores; default: ``head size ** -0.5``.
        options: Other options that the network passes to its attention.

    Returns:
        ``(rows, new, heads, head size)``, and ``None`` instead of attention weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    new = query.shape[2]
    simple = attention_mask is None or (attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1)
    special = any(options.get(name) is not None for name in ("position_bias", "softcap"))
    if not simple or special or new > FEW_QUERIES or (attention_mask is None and new > 1):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    return attend(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None


def attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scaling: float | None = None) -> Tensor:
    """Attention in which query heads share key heads; ``(rows, heads, new, head size)``.

    Args:
        query: ``(rows, heads, new, head size)``.
        key: ``(rows, key heads, slots, head size)``.
        value: As ``key``.
        seen: ``(rows, 1, new, slots)``, True where a token is seen, of which each token has one; ``None`` if all are.
        scaling: Factor of the attention scores; default: ``head size ** -0.5``.
    """
    rows, heads, new, size = query.shape
    groups, slots = heads // key.shape[1], key.shape[2]
    query = query.reshape(rows, key.shape[1], groups * new, size)
    if seen is not None:
        seen = seen[:, :, None].expand(-1, -1, groups, -1, -1).reshape(-1, 1, groups * new, slots)
    exact = query.dtype == value.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if query.device.type != "cpu" or exact or new > FEW_QUERIES:
        found = scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)
    else:
        # each product in the type that its keys or values have in the cache, so that no cache is converted
        with torch.autocast("cpu", enabled=False):
            query = query.to(key.dtype) * (size**-0.5 if scaling is None else scaling)
            scores = (query @ key.transpose(-1, -2)).float()
            if seen is not None:
                scores = scores.masked_fill_(~seen, torch.finfo(torch.float32).min)
            found = scores.softmax(-1).to(value.dtype) @ value
    return found.reshape(rows, heads, new, -1)


def _config(model: Any) -> Any:
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).config
