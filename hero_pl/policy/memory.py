"""Memory of a policy, from its configuration alone: the model is built on the device ``meta``, which has no data.

Weights, gradients and optimizer are counted. For activations a forward pass on that device shows which tensors are kept
for the backward pass, with an attention that keeps no matrix of attention weights, as fused kernels do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hero_pl.errors import PolicyError
from hero_pl.policy.cache_input import cache_input
from hero_pl.policy.loading import load_config, load_model, load_tokenizer, with_adapter, without_dropout
from hero_pl.policy.network import LEAST_AT_ONCE, LOGITS_AT_ONCE
from hero_pl.policy.sampling_weights import packs

if TYPE_CHECKING:
    from hero_pl.policy.huggingface import HuggingFacePolicy

FUSED = "hero_pl_fused"
"""Name of the attention without a matrix of weights, in transformers."""
FLOAT_BYTES = 4
LOGIT_TENSORS = 6
"""Tensors of the size of the logits that a divergence holds at once: of both sides, their softmax, and gradients."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a model needs, in bytes and numbers."""

    parameters: int
    trained: int
    active: float
    """Parameters that one token passes: all, or with experts those of the chosen ones."""
    weights: int
    """Bytes of all weights and buffers."""
    trained_weights: int
    """Bytes of those that are trained; a gradient, and each average of AdamW, has as many."""
    activations: int
    """Bytes kept for the backward pass of ``tokens``."""
    cache_per_token: int
    """Bytes of keys and values per token of a conversation."""
    adapted: int
    """Bytes of the weights that an adapter is added to; 0 without one."""
    packed: int
    """Bytes of the weights that a CPU copies while it samples."""
    attention: int
    """Layers times heads times head size: a token has 4 operations per number of it and token before it."""
    vocabulary: int
    layers: int
    width: int


def measure(policy: HuggingFacePolicy, tokens: int, dtype: torch.dtype) -> Sizes:
    """Sizes of the model of a policy.

    Args:
        policy: Not loaded.
        tokens: Tokens of one forward pass with gradient.
        dtype: Data type of the activations, if it is not that of the weights.

    Raises:
        PolicyError: The configuration or the tokenizer cannot be read, or the architecture cannot run without memory.
    """
    model = _build(policy)
    own = list(dict(model.named_parameters()).values())
    trained = [p for p in own if p.requires_grad]
    config = model.config.get_text_config()
    weights = sum(p.nbytes for p in own) + sum(b.nbytes for b in model.buffers())
    trained_weights = sum(p.nbytes for p in trained)
    packed = sum(layer.weight.numel() for layer in model.modules() if packs(layer)) * dtype.itemsize
    try:
        kept, cache = _passes(model, tokens, dtype)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise PolicyError(f"A {config.model_type} model cannot be tried without memory: {error}") from error
    return Sizes(
        parameters=sum(p.numel() for p in own),
        trained=sum(p.numel() for p in trained),
        active=_active(model, config),
        weights=weights,
        trained_weights=trained_weights,
        activations=kept,
        cache_per_token=cache,
        adapted=_adapted(model),
        packed=packed,
        attention=int(config.num_hidden_layers) * int(config.num_attention_heads) * _head_size(config),
        vocabulary=int(config.vocab_size),
        layers=int(config.num_hidden_layers),
        width=int(config.hidden_size),
    )


def logits_at_once(policy: HuggingFacePolicy, vocabulary: int, tokens: int, on_cpu: bool = False) -> int:
    """Tokens whose logits exist at the same time in a loss."""
    if policy.logits_at_once == "auto":
        return min(tokens, max(LEAST_AT_ONCE, LOGITS_AT_ONCE[on_cpu] // vocabulary))
    return min(tokens, policy.logits_at_once or tokens)


def kept_bytes(model: Any, tokens: int) -> int:
    """Bytes that a forward pass keeps for the backward pass, without the parameters; on any device."""
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in parameters:
            kept[storage] = tensor  # held, so that no other tensor gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**_inputs(model, tokens), use_cache=False, logits_to_keep=1)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def register_fused() -> None:
    """Make the attention known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(FUSED, _attend)
    AttentionMaskInterface.register(FUSED, lambda *args, **kwargs: None)


# -- parts -------------------------------------------------------------------------------------------------------------


def _build(policy: HuggingFacePolicy) -> Any:
    register_fused()
    vocabulary = len(load_tokenizer(policy.tokenizer_source or "")) if policy.config is not None else 1
    config = load_config(policy.pretrained, policy.config, vocabulary)
    without_dropout(config)
    attention = "eager" if policy.attention == "eager" else FUSED
    with torch.device("meta"):
        model: Any = load_model(None, config, getattr(torch, policy.dtype), attention, policy.seed)
        return with_adapter(model, policy.lora) if policy.lora is not None else model


def _passes(model: Any, tokens: int, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes kept by a forward pass, and bytes per token of the cache."""
    try:
        return kept_bytes(model.to(dtype), tokens), _cache_bytes(model)
    except RuntimeError:
        if dtype != torch.float32:
            raise
    kept, cache = _passes(model, tokens, torch.bfloat16)  # the joint products of experts exist in bfloat16 only
    return 2 * kept, 2 * cache


def _inputs(model: Any, tokens: int) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    ids = torch.zeros(1, tokens, dtype=torch.long, device=device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _cache_bytes(model: Any, tokens: int = 16) -> int:
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=model.config)
    with torch.no_grad():
        model(**_inputs(model, tokens), use_cache=True, logits_to_keep=1, **cache_input(model, cache))
    parts = [part for layer in cache.layers for part in (getattr(layer, "keys", None), getattr(layer, "values", None))]
    return int(sum(part.nbytes for part in parts if part is not None)) // tokens


def _adapted(model: Any) -> int:
    if not hasattr(model, "get_base_model"):
        return 0
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    return sum(layer.get_base_layer().weight.nbytes for layer in layers)


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _active(model: Any, config: Any) -> float:
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    chosen = getattr(config, "num_experts_per_tok", None)
    share = chosen / experts if experts and chosen else 1.0
    return float(sum(p.numel() * (share if ".experts" in name else 1.0) for name, p in model.named_parameters()))


class _Fused(torch.autograd.Function):
    """Keeps what fused attention keeps: queries, keys, values, the output, and one number per query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("only the forward pass is counted")


def _attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **settings: Any) -> tuple[Tensor, None]:
    out: Tensor = _Fused.apply(query, key, value)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2), None
