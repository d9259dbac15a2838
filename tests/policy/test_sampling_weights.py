"""The faster forms of the weights change what is sampled by rounding only, and leave the network as it was."""

from typing import Any

import pytest
import torch

from hero_pl.policy import sampling_weights
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import Lora
from hero_pl.policy.sampler import CachedSampler, CachedSession
from hero_pl.policy.sampling import Sampling
from hero_pl.types import SampledAction, ScoreRow


@pytest.fixture
def adapted(tiny_policy: Any) -> HuggingFacePolicy:
    pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    policy: HuggingFacePolicy = tiny_policy(lora=Lora(rank=4, alpha=8))
    policy.load()
    change(policy)
    return policy


def change(policy: HuggingFacePolicy) -> None:
    draw = torch.Generator().manual_seed(policy.version)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))


def act(policy: HuggingFacePolicy, session: CachedSession, row: int = 0) -> tuple[ScoreRow, SampledAction]:
    prompt = policy.template.first_prompt("", "hello")
    action = session.act([row], [prompt])[0]
    ids = (*prompt, *action.ids)
    return ScoreRow(ids, ((len(prompt), len(ids)),)), action


def gap(policy: HuggingFacePolicy, row: ScoreRow, action: SampledAction) -> float:
    """Largest difference between sampled and scored log-probabilities."""
    log_p = policy.score([row]).log_softmax(-1)
    scored = log_p.gather(-1, torch.tensor(action.ids)[:, None]).squeeze(-1)
    return float((scored - torch.tensor(action.logprobs)).abs().max())


def test_bug_565_a_merged_adapter_samples_what_is_scored_and_the_weights_come_back(adapted: HuggingFacePolicy) -> None:
    before = {name: parameter.detach().clone() for name, parameter in adapted.named_parameters()}
    with adapted.sampling():
        session = adapted.sampler.open(adapted, Sampling(1.0, 12), [0])
        assert isinstance(session, CachedSession)
        row, action = act(adapted, session)
        assert session.weights.merged
        assert gap(adapted, row, action) < 1e-5
        plain = CachedSampler(merge=False).open(adapted, Sampling(1.0, 12), [0])
        assert act(adapted, plain)[1].ids == action.ids
        assert not plain.weights.merged
    for name, parameter in adapted.named_parameters():
        assert torch.equal(parameter, before[name]), name


def check_after_a_step(policy: HuggingFacePolicy) -> None:
    """A session samples with the new weights after an optimizer step."""
    with policy.sampling():
        session = policy.sampler.open(policy, Sampling(1.0, 12), [0, 0])
        assert isinstance(session, CachedSession)
        act(policy, session)
        policy.version += 1
        change(policy)
        row, action = act(policy, session, row=1)
        assert action.version == 1
        assert gap(policy, row, action) < 1e-5


def test_bug_566_merged_weights_are_made_again_after_a_step(adapted: HuggingFacePolicy) -> None:
    check_after_a_step(adapted)


def test_bug_567_the_weights_come_back_after_an_error(adapted: HuggingFacePolicy) -> None:
    before = {name: parameter.detach().clone() for name, parameter in adapted.named_parameters()}
    row = ScoreRow(tuple(range(30, 40)), ((4, 10),))
    want = adapted.score([row]).detach()
    network = adapted.need_network("test")
    with pytest.raises(KeyboardInterrupt), sampling_weights.SamplingWeights(network, "live").ready(0):
        raise KeyboardInterrupt
    for name, parameter in adapted.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert torch.equal(adapted.score([row]), want)


def test_bug_568_an_adapter_is_not_merged_where_rounding_would_change_the_policy(
    adapted: HuggingFacePolicy, caplog: pytest.LogCaptureFixture
) -> None:
    adapted.to(torch.bfloat16)
    caplog.set_level("INFO")
    with adapted.sampling():
        session = adapted.sampler.open(adapted, Sampling(1.0, 4), [0])
        assert isinstance(session, CachedSession)
        act(adapted, session)
    assert not session.weights.merged
    assert "not merged" in caplog.text


def test_initial_weights_are_sampled_without_the_adapter(adapted: HuggingFacePolicy) -> None:
    with adapted.sampling():
        session = adapted.sampler.open(adapted, Sampling(1.0, 12), [0], "initial")
        row, action = act(adapted, session)  # type: ignore[arg-type]
        log_p = adapted.score([row], "initial").log_softmax(-1)
    scored = log_p.gather(-1, torch.tensor(action.ids)[:, None]).squeeze(-1)
    torch.testing.assert_close(torch.tensor(action.logprobs), scored, atol=1e-5, rtol=0)


needs_mkldnn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no mkldnn here")


@needs_mkldnn
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "mixed"])
@pytest.mark.parametrize("weights", ["live", "initial"])
def test_packed_weights_sample_what_is_scored(
    adapted: HuggingFacePolicy, monkeypatch: pytest.MonkeyPatch, precision: str, weights: str
) -> None:
    monkeypatch.setattr(sampling_weights, "LARGE_WEIGHT", 1)
    if precision == "bfloat16":
        adapted.to(torch.bfloat16)
    prompt = adapted.template.first_prompt("", "hello")
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed"), adapted.sampling():
        plain = CachedSampler(merge=False, pack=False).open(adapted, Sampling(1.0, 12), range(5), weights)
        packed = CachedSampler().open(adapted, Sampling(1.0, 12), range(5), weights)
        want, found = plain.act(range(5), [prompt] * 5), packed.act(range(5), [prompt] * 5)
    assert packed.weights.copied > 7
    assert plain.weights.copied == 0
    tolerance = 1e-5 if precision == "float32" else 0.1
    for one, other in zip(want, found, strict=True):
        if precision == "float32":
            assert one.ids == other.ids
        same = [a == b for a, b in zip(one.ids, other.ids, strict=False)]
        until = same.index(False) if False in same else len(same)
        assert until > 0
        assert other.logprobs[:until] == pytest.approx(one.logprobs[:until], abs=tolerance)


@needs_mkldnn
def test_bug_692_packed_weights_leave_the_layers_as_they_were(
    adapted: HuggingFacePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_weights, "LARGE_WEIGHT", 1)
    row = ScoreRow(tuple(range(30, 40)), ((4, 10),))
    want = adapted.score([row]).detach()
    network = adapted.need_network("test")
    weights = sampling_weights.SamplingWeights(network, "live")
    with pytest.raises(KeyboardInterrupt), weights.ready(0):
        raise KeyboardInterrupt
    assert weights.copied
    assert not [name for name, module in network.named_modules() if "forward" in vars(module)]
    assert torch.equal(adapted.score([row]), want)
    adapted.score([row]).sum().backward()  # a packed product has no gradient
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in adapted.parameters())


@needs_mkldnn
def test_bug_693_packed_weights_are_made_again_after_a_step(
    adapted: HuggingFacePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_weights, "LARGE_WEIGHT", 1)
    check_after_a_step(adapted)
