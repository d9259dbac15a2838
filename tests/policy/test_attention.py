"""Attention of a few new tokens equals that of transformers, and a network has its own back after sampling."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hero_pl.policy import attention
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.sampling_weights import SamplingWeights

ROWS, KEYS, GROUPS, SIZE = 3, 2, 4, 8


def states(new: int, slots: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(new)
    shapes = (KEYS * GROUPS, new), (KEYS, slots), (KEYS, slots)
    query, key, value = (torch.randn(ROWS, heads, length, SIZE, generator=draw) for heads, length in shapes)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def mask(new: int, slots: int) -> Tensor:
    """Causal, with padding on the left of each row."""
    seen = torch.ones(ROWS, 1, new, slots, dtype=torch.bool).tril(slots - new)
    for row in range(ROWS):
        seen[row, ..., : 2 * row] = False
    return seen


def layer() -> Any:
    return SimpleNamespace(num_key_value_groups=GROUPS, is_causal=True)


def called(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """New tokens of each pass that the attention of this package does itself."""
    passes: list[int] = []
    own = attention.attend

    def noted(query: Tensor, *others: Any) -> Tensor:
        passes.append(query.shape[2])
        return own(query, *others)

    monkeypatch.setattr(attention, "attend", noted)
    return passes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("new", "masked"), [(1, True), (1, False), (7, True), (7, False), (65, True)])
def test_it_equals_the_attention_of_transformers(new: int, masked: bool, dtype: torch.dtype) -> None:
    slots = new if not masked and new > 1 else new + 12
    inputs = states(new, slots, dtype)
    seen = mask(new, slots) if masked else None
    found, nothing = attention.grouped_attention(layer(), *inputs, seen, scaling=0.3)
    want, _ = sdpa_attention_forward(layer(), *(one.float() for one in inputs), seen, scaling=0.3)
    assert nothing is None
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), want, atol=1e-5 if dtype == torch.float32 else 0.03, rtol=0)


def test_under_autocast_no_key_or_value_is_converted() -> None:
    query, key, value = states(1, 20, torch.float32)
    want = attention.attend(query, key, value, mask(1, 20))
    with torch.autocast("cpu", torch.bfloat16):
        found = attention.attend(query, key, value.bfloat16(), mask(1, 20))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), want, atol=0.03, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attention.attend(query, key, value, mask(1, 20)), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("special", ["position_bias", "mask of numbers", "mask of heads", "many tokens"])
def test_bug_695_what_it_does_not_know_is_left_to_transformers(monkeypatch: pytest.MonkeyPatch, special: str) -> None:
    passes = called(monkeypatch)
    new = attention.FEW_QUERIES + 1 if special == "many tokens" else 3
    inputs, seen = states(new, new + 4, torch.float32), mask(new, new + 4)
    options: dict[str, Any] = {}
    if special == "position_bias":
        options["position_bias"] = torch.randn(1, KEYS * GROUPS, new, new + 4)
    elif special == "mask of numbers":
        seen = torch.where(seen, 0.5, torch.finfo(torch.float32).min)
    elif special == "mask of heads":
        seen = seen.repeat(1, KEYS * GROUPS, 1, 1)
        seen[:, 0, :, 7:-new] = False
    found, _ = attention.grouped_attention(layer(), *inputs, seen, **options)
    want, _ = sdpa_attention_forward(layer(), *inputs, seen, **options)
    assert torch.equal(found, want)
    assert not passes


def test_a_sampler_uses_it_and_the_network_has_its_own_back(tiny_policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    policy.load()
    passes = called(monkeypatch)
    prompts = [policy.template.first_prompt("", text) for text in ("hello", "hello again")]
    with policy.sampling():
        session = policy.sampler.open(policy, Sampling(1.0, 4), range(2))
        session.act(range(2), prompts)
    assert 1 in passes
    assert policy.network.model.config._attn_implementation == "sdpa"
    weights = SamplingWeights(policy.network, "live")
    with pytest.raises(KeyboardInterrupt), weights.ready(0):
        raise KeyboardInterrupt
    assert policy.network.model.config._attn_implementation == "sdpa"


def test_bug_696_another_attention_is_not_replaced(tiny_policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy(attention="eager")
    policy.load()
    passes = called(monkeypatch)
    with policy.sampling():
        session = policy.sampler.open(policy, Sampling(1.0, 2), [0])
        session.act([0], [policy.template.first_prompt("", "hello")])
    assert not passes
    assert policy.network.model.config._attn_implementation == "eager"
