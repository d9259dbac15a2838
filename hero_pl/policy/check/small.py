"""A small copy of an architecture: the same class with random weights and every type of layer of the model.

A conversation of a hundred tokens is longer than its windows, its attention chunks, and the length at which its rotary
frequencies change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

VOCABULARY = 96
"""Number of ids of the small copy; ids below :data:`FIRST_ID` may be special."""
FIRST_ID = 4
POSITIONS = 160
"""Context length in tokens."""
WINDOW = 12
"""Length of windows and attention chunks in tokens."""
SWITCH = 40
"""Context length beyond which the rotary frequencies change, in tokens."""

LARGEST = 4_000_000
"""Largest number of weights of a copy, so that the check takes seconds."""

_WIDTH, _HEADS, _HEAD = 64, 4, 16
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_NUMBER_OF_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
_PREFIX = 8
"""Largest number of layers to keep if the first layers are kept unchanged."""

_FIXED: Mapping[str, int] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "lru_width"), _WIDTH),
    **dict.fromkeys(_NUMBER_OF_HEADS, _HEADS),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "intermediate_size_mlp"), 2 * _WIDTH
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("head_dim", "global_head_dim", "v_head_dim", "kv_channels"), _HEAD),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_head_dim", "adapter_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("mamba_n_heads", "n_mamba_heads", "mamba_d_state", "state_size", "mamba_chunk_size"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_headdim", "chunk_size"), 16),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_group", "topk_group"), 1),
    **{"mamba_dt_rank": 4, "attention_head_dim": 2 * _HEAD, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "hidden_size_per_layer_input": 16},
}
"""Sizes of the small copy by their names in configurations."""

_AT_MOST: Mapping[str, int] = {
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "num_experts_per_token"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), POSITIONS),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size", "attention_window_size"), WINDOW),
    **{"original_max_position_embeddings": SWITCH, "first_k_dense_replace": 1, "num_kv_shared_layers": 0},
}
"""Upper limits of sizes; smaller values do not change."""

_INDICES = re.compile(r"(layers|layer_ids|layer_indices|idxs)$")
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class TooLarge(Exception):
    """No small copy can be made; the message says why."""


def small_copy(model: Any, seed: int = 0) -> Any:
    """A model of the same class in float32 and evaluation mode; its weights are so large that every layer matters.

    Args:
        model: A causal language model of transformers, without an adapter.
        seed: Seed of the weights; the random state of the caller does not change.

    Raises:
        TooLarge: Its configuration cannot be made small.
    """
    config = model.config
    try:
        less = type(config).from_dict(_smaller(config.to_dict()))
        settings = {"dtype": torch.float32, "attn_implementation": config._attn_implementation}
        with torch.random.fork_rng(devices=[]):
            with torch.device("meta"):
                size = sum(weight.numel() for weight in type(model)._from_config(less, **settings).parameters())
            if size > LARGEST:
                raise TooLarge(f"{size / 1e6:.0f} million weights are left")
            with torch.device("cpu"):
                torch.manual_seed(seed)
                made = type(model)._from_config(less, **settings).eval()
                for weight in made.parameters():
                    if weight.dim() >= 2:
                        torch.nn.init.normal_(weight, 0.0, 1.5 / weight.shape[-1] ** 0.5)
                with torch.no_grad():
                    logits = made(input_ids=torch.tensor([[FIRST_ID] * SWITCH]), use_cache=False).logits
        if not logits.isfinite().all():
            raise TooLarge("its logits are not finite")
    except TooLarge:
        raise
    except Exception as error:  # custom configuration code can raise anything
        raise TooLarge(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    return made


def small_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a small model of the same architecture, without vocabulary, special ids and origin.

    Args:
        config: Settings of the model, with its ``model_type``.
    """
    foreign = ("vocab_size", "transformers_version", "architectures", "dtype", "torch_dtype", "quantization_config")
    small = _smaller({name: value for name, value in config.items() if name not in foreign and name[0] != "_"})
    return {name: value for name, value in small.items() if not name.endswith("_token_id")}


def is_small(model: Any) -> bool:
    """Whether an architecture is small enough for the check itself."""
    text = model.config.get_text_config()
    room = int(getattr(text, "max_position_embeddings", 0) or POSITIONS) >= 2 * SWITCH + FIRST_ID
    return room and int(text.vocab_size) >= VOCABULARY and sum(w.numel() for w in model.parameters()) <= LARGEST


def _smaller(config: Mapping[str, Any]) -> dict[str, Any]:
    """A small version of a configuration dictionary and of the configurations inside it (for text, for images)."""
    heads = next((config[name] for name in _NUMBER_OF_HEADS if config.get(name)), _HEADS)
    width = next((config[name] for name in ("hidden_size", "n_embd", "d_model") if config.get(name)), _WIDTH)
    head = config.get("head_dim") or width // heads
    kept = _kept_layers(config)
    small: dict[str, Any] = {}
    for name, value in config.items():
        if name in _FIXED and value is not None:
            small[name] = _FIXED[name]
        elif name in _AT_MOST and isinstance(value, int) and not isinstance(value, bool):
            small[name] = min(value, _AT_MOST[name])
        elif name in ("num_key_value_heads", "num_kv_heads", "n_head_kv") and value is not None:
            small[name] = _HEADS if value == heads else min(value, 2)
        elif name == "word_embed_proj_dim":
            small[name] = _WIDTH if value == width else _WIDTH // 2
        elif name.startswith("vocab_size"):
            small[name] = VOCABULARY
        elif name in _SPECIAL:
            small[name] = None if value is None else _SPECIAL[name]
        elif name in _LAYERS and kept:
            small[name] = len(kept)
        elif name in ("rope_parameters", "rope_scaling") and value:
            small[name] = _smaller_rope(value, head)
        elif name == "attention_types" and value:
            small[name] = [[kinds, 1] for kinds, _ in value]
        elif name == "per_layer_config" and value:
            small[name] = {kept.index(int(i)): _smaller(one) for i, one in value.items() if int(i) in kept}
        elif name.endswith("_config") and isinstance(value, Mapping):
            small[name] = _smaller(value)
        elif isinstance(value, list) and kept:
            small[name] = _of_layers(name, value, kept, _number_of_layers(config))
        else:
            small[name] = value
    if "qk_rope_head_dim" in small:
        small["head_dim"] = small["qk_rope_head_dim"]
    return small


def _number_of_layers(config: Mapping[str, Any]) -> int:
    return next((int(config[name]) for name in _LAYERS if config.get(name)), 0)


def _kept_layers(config: Mapping[str, Any]) -> list[int]:
    """Numbers of the layers to keep: every type of layer, at least two layers, and the first ones if possible."""
    count = _number_of_layers(config)
    if config.get("attention_types"):
        return list(range(sum(len(kinds) for kinds, _ in config["attention_types"])))
    lists = [v for v in config.values() if isinstance(v, list) and len(v) == count and len(set(map(str, v))) <= 4]
    marks = [name for name, v in config.items() if isinstance(v, list) and _INDICES.search(name) and v not in lists]
    kinds = [(*(str(v[i]) for v in lists), *(i in config[name] for name in marks)) for i in range(count)]
    firsts = sorted({kinds.index(kind) for kind in set(kinds)})
    periods = [v for k, v in config.items() if k.endswith(("_period", "_interval")) and isinstance(v, int)]
    if not lists and periods:  # these determine the types of the layers
        firsts.append(min(count, max(periods) + 1) - 1)
    if len(firsts) > 1 and firsts[-1] >= _PREFIX:
        return firsts
    return list(range(min(count, max(firsts[-1] + 1, 2)))) if firsts else []


def _of_layers(name: str, value: list[Any], kept: Sequence[int], count: int) -> list[Any]:
    """The part of a list for the layers to keep; the list has one entry per layer, or numbers of layers."""
    if len(value) == count and len(set(map(str, value))) <= 4:
        return [value[i] for i in kept]
    if _INDICES.search(name) and all(isinstance(i, int) for i in value):
        return [kept.index(i) for i in value if i in kept]
    return value


def _smaller_rope(rope: Mapping[str, Any], head: int) -> dict[str, Any]:
    """Settings of rotary positions for smaller heads."""
    small: dict[str, Any] = {}
    for name, value in rope.items():
        if isinstance(value, Mapping):
            small[name] = _smaller_rope(value, head)
        elif name == "original_max_position_embeddings" and value:
            small[name] = min(int(value), SWITCH)
        elif name in ("short_factor", "long_factor") and value:
            size = len(value) * _HEAD // head
            small[name] = [value[i * len(value) // size] for i in range(size)]
        elif name == "mrope_section" and value:
            small[name] = [part * _HEAD // head for part in value]
        else:
            small[name] = value
    return small
