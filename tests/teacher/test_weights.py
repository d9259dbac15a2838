"""The weights that the teacher scores with, and when they change with the student."""

from pathlib import Path

import pytest
import torch

from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.errors import ConfigError
from hero_pl.losses import Scores
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import Lora
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.scalars import measured
from hero_pl.teacher.weights import (
    EMAWeights,
    GatedWeights,
    InitialWeights,
    LiveWeights,
    PeriodicWeights,
    TeacherWeights,
    TrustRegionWeights,
)
from hero_pl.types import ScoreRow

ROW = ScoreRow(tuple(range(9)), ((3, 9),))


@pytest.fixture
def policy(tmp_path: Path) -> HuggingFacePolicy:
    byte_tokenizer().save_pretrained(tmp_path)
    config = {"model_type": "qwen3", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64}
    made = HuggingFacePolicy(config=config, tokenizer=str(tmp_path))
    made.load()
    return made


def move(policy: HuggingFacePolicy) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1)


def follows(weights: TeacherWeights, policy: HuggingFacePolicy, reward: float = 0.0, length: float = 10.0) -> bool:
    """Whether the teacher equals the student after one more step."""
    move(policy)
    weights.after_step(policy, reward, length)
    return torch.equal(weights.scores(policy, [ROW]).logits(), LiveWeights().scores(policy, [ROW]).logits())


def test_live_weights_follow_and_never_carry_a_gradient(policy: HuggingFacePolicy) -> None:
    weights = LiveWeights()
    weights.start(policy)
    assert follows(weights, policy)
    policy.train()
    assert not weights.scores(policy, [ROW]).logits().requires_grad
    assert policy.training


def test_initial_weights_stay(policy: HuggingFacePolicy) -> None:
    weights = InitialWeights()
    weights.start(policy)
    start = weights.scores(policy, [ROW]).logits()
    assert not follows(weights, policy)
    assert torch.equal(weights.scores(policy, [ROW]).logits(), start)


def test_bug_20_the_rate_of_the_average_is_the_students_share(policy: HuggingFacePolicy) -> None:
    weights = EMAWeights(0.25)
    weights.start(policy)
    before = next(policy.parameters()).detach().clone()
    move(policy)
    weights.after_step(policy, 0.0, 1.0)
    torch.testing.assert_close(next(policy.network.copies["ema"].parameters()).detach(), before + 0.025)


def test_bug_641_an_average_of_an_adapter_leaves_the_weights_alone_that_are_not_trained(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    byte_tokenizer().save_pretrained(tmp_path)
    config = {"model_type": "qwen3", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64}
    policy = HuggingFacePolicy(config=config, tokenizer=str(tmp_path), dtype="bfloat16", lora=Lora(rank=2, alpha=4))
    policy.load()
    weights = EMAWeights(0.25)
    weights.start(policy)
    before = {name: weight.detach().clone() for name, weight in policy.network.model.named_parameters()}
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(0.5)
    weights.after_step(policy, 0.0, 1.0)
    for name, weight in policy.network.copies["ema"].named_parameters():
        assert torch.equal(weight, before[name] + (0.125 if "lora" in name else 0.0)), name
        assert weight.dtype == (torch.float32 if "lora" in name else torch.bfloat16), name


def test_bug_54_the_average_takes_over_the_buffers_of_the_student(policy: HuggingFacePolicy) -> None:
    policy.network.model.register_buffer("running", torch.zeros(2))
    weights = EMAWeights(0.25)
    weights.start(policy)
    policy.network.model.running.fill_(7.0)
    weights.after_step(policy, 0.0, 1.0)
    assert policy.network.copies["ema"].running.tolist() == [7.0, 7.0]  # a buffer is a state, not something to average


def test_periodic_weights_follow_every_so_many_steps_also_after_a_resume(policy: HuggingFacePolicy) -> None:
    weights = PeriodicWeights(3)
    weights.start(policy)
    assert [follows(weights, policy) for _ in range(4)] == [False, False, True, False]
    resumed = PeriodicWeights(3)
    resumed.load_state_dict(weights.state_dict())
    assert [follows(resumed, policy) for _ in range(2)] == [False, True]


def test_gated_weights_follow_only_better_rewards_with_actions_of_like_length(policy: HuggingFacePolicy) -> None:
    weights = GatedWeights(1, length_guard=1.5, smoothing=1.0)
    weights.start(policy)
    steps = [(0.5, 10.0), (0.4, 10.0), (0.6, 16.0), (0.6, 15.0), (0.6, 15.0), (0.7, 22.0)]
    assert [follows(weights, policy, *step) for step in steps] == [False, False, False, True, False, True]
    assert measured(weights.metrics()) == {"refused_refreshes": 4.0}
    assert LiveWeights().metrics() == PeriodicWeights(3).metrics() == {}
    resumed = GatedWeights(1)
    resumed.load_state_dict(weights.state_dict())
    assert resumed.state_dict() == weights.state_dict()


def test_a_trust_region_mixes_initial_and_live_logits(policy: HuggingFacePolicy) -> None:
    weights = TrustRegionWeights(0.25)
    weights.start(policy)
    move(policy)
    first, now = InitialWeights().scores(policy, [ROW]).logits(), LiveWeights().scores(policy, [ROW]).logits()
    torch.testing.assert_close(weights.scores(policy, [ROW]).logits(), (0.75 * first + 0.25 * now).log_softmax(-1))


def test_a_small_step_of_the_trust_region_survives_bfloat16(policy: HuggingFacePolicy) -> None:
    weights = TrustRegionWeights(0.05)
    first, now = torch.full((1, 4), 18.0), torch.tensor([[18.0, 18.0, 18.25, 18.0]])
    sides = {"initial": Scores(first.bfloat16()), "live": Scores(now.bfloat16())}
    weights._scores = lambda policy, rows, name, trunks=(): sides[name]  # type: ignore[method-assign]
    mixed = weights.scores(policy, [ROW]).logits()
    assert mixed.dtype == torch.float32
    assert float(mixed[0, 2] - mixed[0, 0]) == pytest.approx(0.0125, rel=0.01)


def test_settings_and_policies_that_cannot_work_are_refused() -> None:
    for make in (lambda: EMAWeights(1.5), lambda: PeriodicWeights(0), lambda: GatedWeights(5, 0.5)):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(ConfigError, match=r"frozen copy \(initial\).*HuggingFacePolicy.*ScriptedPolicy"):
        InitialWeights().start(ScriptedPolicy())
