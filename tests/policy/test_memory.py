"""The estimate of memory: counted without memory as with it, and what is counted is what is there."""

import pytest
import torch

from hero_pl.chat.actions import PlainText
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.memory import FUSED, kept_bytes, logits_at_once, measure, register_fused

CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}


def policy(**settings):
    return HuggingFacePolicy(config=dict(CONFIG), tokenizer="hero_pl:pocket-shop", parser=PlainText(), **settings)


def test_without_memory_as_many_bytes_are_kept_as_with_it():
    register_fused()
    real = policy()
    real.load()
    model = real.network.model
    model.set_attn_implementation(FUSED)
    assert kept_bytes(model, 40) == measure(policy(), 40, torch.float32).activations


def test_weights_optimizer_and_cache_are_what_a_loaded_policy_has():
    sizes, real = measure(policy(), 8, torch.float32), policy()
    real.load()
    parameters = list(real.network.model.parameters())
    assert sizes.parameters == sizes.trained == sizes.active == sum(p.numel() for p in parameters)
    assert sizes.trained_weights == sum(p.nbytes for p in parameters)
    optimizer = torch.optim.AdamW(parameters)
    real.network.model(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    averages = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    assert 2 * sizes.trained_weights == sum(value.nbytes for value in averages)
    assert sizes.cache_per_token == 3 * 2 * 2 * 8 * 4  # layers, keys and values, heads, width of a head, bytes


def test_activations_grow_with_the_tokens_alone():
    few, many = (measure(policy(), tokens, torch.float32).activations for tokens in (64, 128))
    assert many == pytest.approx(2 * few, rel=0.01)


def test_half_the_bytes_in_bfloat16():
    full, half = (measure(policy(dtype=dtype), 64, getattr(torch, dtype)) for dtype in ("float32", "bfloat16"))
    assert half.trained_weights * 2 == full.trained_weights
    assert half.activations < 0.75 * full.activations  # norms are computed in float32


def test_of_experts_those_count_that_a_token_passes():
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "model_type": "qwen3_moe"}
    one = HuggingFacePolicy(config={**CONFIG, **experts}, tokenizer="hero_pl:pocket-shop", parser=PlainText())
    sizes = measure(one, 8, torch.float32)
    of_experts = 3 * 8 * 3 * 32 * 16  # layers, experts, matrices of one, their size
    assert sizes.parameters - sizes.active == 0.75 * of_experts


@pytest.mark.parametrize(("setting", "expected"), [("auto", 128), (10, 10), (0, 5000)])
def test_logits_are_made_for_as_many_tokens_as_set(setting, expected):
    assert logits_at_once(policy(logits_at_once=setting), 1 << 21, 5000) == expected
