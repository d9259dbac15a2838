"""Logits made in parts change the memory that is needed, and nothing else."""

from typing import Any

import pytest
import torch

from hero_pl.errors import ConfigError, PolicyError
from hero_pl.losses import ForwardKL, JensenShannon, SampledToken
from hero_pl.losses.gates import Contrastive
from hero_pl.objectives.mixed import Mixed
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.scalars import measured
from hero_pl.teacher.weights import InitialWeights, TrustRegionWeights


@pytest.fixture(scope="module")
def shop():
    return Collector("hero_pl/WebShopPocket-v0", {}, split="train", limits=Limits(max_turns=3))


def one_step(objective: SelfDistillation, policy: Any, shop: Collector) -> tuple[Any, dict[str, torch.Tensor], int]:
    """Loss of a whole batch, gradients by name, and the most rows that went through the output layer at once."""
    policy.load()
    specs = [EpisodeSpec(task, i, i) for i, task in enumerate(shop.task_ids[:3])]
    played = shop.collect(specs, policy, Sampling(1.0, 4))
    objective.start(policy)
    step = objective.prepare(played, policy, lambda local: local)
    rows = [0]
    handle = policy.network.model.get_output_embeddings().register_forward_hook(
        lambda _, given, __: rows.append(given[0].shape[0])
    )
    output = objective.loss(policy, step.batch)
    handle.remove()
    output.loss.backward()
    return output, {name: p.grad for name, p in policy.named_parameters()}, max(rows)


@pytest.mark.parametrize("loss", [JensenShannon(), ForwardKL(), JensenShannon(support="student", top_k=5)], ids=str)
@pytest.mark.parametrize("weights", [None, InitialWeights()], ids=["live", "initial"])
@pytest.mark.parametrize("scoring", ["separate", "tree_mask"])
def test_loss_gradients_and_records_are_those_of_all_logits(loss, weights, scoring, tiny_policy, shop) -> None:
    def run(logits_at_once: int) -> Any:
        torch.manual_seed(0)
        settings = {"weights": weights, "divergence": loss, "teacher_scoring": scoring, "probe_turns": 0}
        objective = SelfDistillation(ShopRules(), logits_at_once=logits_at_once, **settings)
        return one_step(objective, tiny_policy(), shop)

    (whole, slopes, rows), (parts, part_slopes, part_rows) = run(0), run(3)
    assert rows > 3
    assert part_rows == 0, "the output layer never sees all tokens"
    torch.testing.assert_close(parts.loss, whole.loss)
    for name in ("per_token", "student_logprobs", "teacher_logprobs"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-6)
    assert measured(parts.metrics) == pytest.approx(measured(whole.metrics), rel=1e-4, abs=1e-6)
    steepest = max(float(slope.abs().max()) for slope in slopes.values())
    assert steepest > 0.0
    for name, slope in slopes.items():
        torch.testing.assert_close(part_slopes[name], slope, rtol=1e-3, atol=1e-4 * steepest)


@pytest.mark.parametrize(
    "needs_all",
    [
        lambda: SelfDistillation(gate=Contrastive(), logits_at_once=8),
        lambda: SelfDistillation(weights=TrustRegionWeights(), logits_at_once=8),
        lambda: SelfDistillation(divergence=SampledToken(), logits_at_once=8),
        lambda: Mixed(logits_at_once=8),
        lambda: SelfDistillation(logits_at_once=-1),
    ],
)
def test_what_needs_all_logits_is_refused(needs_all) -> None:
    with pytest.raises(ConfigError, match="logits_at_once"):
        needs_all()


def test_a_head_that_is_no_plain_projection_is_refused_before_anything_is_played(tiny_policy) -> None:
    policy = tiny_policy()
    policy.load()
    head = policy.network.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    with pytest.raises(PolicyError, match="logits_at_once"):
        SelfDistillation(logits_at_once=8).start(policy)
    with pytest.raises(ConfigError, match="HuggingFacePolicy"):
        SelfDistillation(logits_at_once=8).start(ScriptedPolicy())
