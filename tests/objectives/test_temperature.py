"""Student and teacher are compared at the temperature of sampling, times the teacher's own."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hero_pl.batch import tokenize
from hero_pl.errors import ConfigError, TokenAlignmentError
from hero_pl.losses import Contrastive, GateInputs, JensenShannon, SampledToken
from hero_pl.objectives.mixed import Credit, Mixed
from hero_pl.objectives.policy_gradient import PolicyGradient
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.sampling import Sampling
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.specs import EpisodeSpec


@pytest.fixture(scope="module")
def shop() -> Collector:
    return Collector("hero_pl/WebShopPocket-v0", {}, split="train", limits=Limits(max_turns=3))


@pytest.fixture
def played(tiny_policy: Any, shop: Collector) -> Any:
    """A policy and its episodes, sampled at a temperature."""

    def play(temperature: float, **settings: Any) -> Any:
        policy = tiny_policy(**settings)
        policy.load()
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(4.0)  # so that the temperature matters
        specs = [EpisodeSpec(task, i, i) for i, task in enumerate(shop.task_ids[:3])]
        return policy, shop.collect(specs, policy, Sampling(temperature, 4))

    return play


@pytest.mark.parametrize("logits_at_once", ["auto", 2])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
@pytest.mark.parametrize(
    "make",
    [
        PolicyGradient,
        lambda: SelfDistillation(ShopRules(), divergence=SampledToken()),
        lambda: SelfDistillation(ShopRules()),
        lambda: Mixed(reflector=ShopRules()),
    ],
    ids=["policy gradient", "sampled token", "divergence", "mixed"],
)
def test_before_the_first_update_every_ratio_is_one(
    temperature: float, make: Any, logits_at_once: Any, played: Any
) -> None:
    policy, episodes = played(temperature, logits_at_once=logits_at_once)
    objective = make()
    objective.start(policy)
    step = objective.prepare(episodes, policy, lambda local: local)
    metrics = objective.loss(policy, step.batch).metrics
    assert float(metrics["mismatch/abs_max"]) < 1e-4


def test_the_gap_of_a_teacher_without_hints_is_zero_at_any_temperature(played: Any) -> None:
    policy, episodes = played(0.5)
    objective = Credit("gap_magnitude", reflector=ShopRules())
    step = objective.lay_out(episodes, policy, lambda local: local)
    unhinted = replace(step.batch, teacher=step.batch.student)
    assert float(objective._gaps(policy, unhinted).abs().max()) < 1e-4


@pytest.mark.parametrize("logits_at_once", [0, 2])
def test_bug_14_both_sides_are_compared_at_the_temperature_that_the_batch_was_sampled_at(
    logits_at_once: int, played: Any
) -> None:
    policy, episodes = played(0.5, logits_at_once=logits_at_once)
    objective = SelfDistillation(ShopRules())
    batch = objective.prepare(episodes, policy, lambda local: local).batch
    result = objective.loss(policy, batch)
    student, teacher = (policy.score(rows).detach() / 0.5 for rows in (batch.student, batch.teacher))
    per_token = JensenShannon()(student, teacher)
    assert result.per_token is not None
    torch.testing.assert_close(result.per_token, per_token, rtol=1e-4, atol=1e-6)
    assert result.loss.item() == pytest.approx(float((batch.coefficient * per_token).sum()), rel=1e-4)
    expected = student.log_softmax(-1).gather(-1, batch.action_ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(result.student_logprobs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("logits_at_once", [0, 2])
def test_bug_702_a_sharper_teacher_leaves_the_student_and_the_rollout_as_they_are(
    logits_at_once: int, played: Any
) -> None:
    policy, episodes = played(0.8, logits_at_once=logits_at_once)
    objective = SelfDistillation(ShopRules(), teacher_temperature=0.5)
    batch = objective.prepare(episodes, policy, lambda local: local).batch
    result = objective.loss(policy, batch)
    per_token = JensenShannon()(policy.score(batch.student) / 0.8, policy.score(batch.teacher) / 0.4)
    assert result.per_token is not None
    torch.testing.assert_close(result.per_token, per_token.detach(), rtol=1e-4, atol=1e-6)
    (batch.coefficient * per_token).sum().backward()
    expected = [parameter.grad.clone() for parameter in policy.parameters() if parameter.grad is not None]
    policy.zero_grad()
    result.loss.backward()
    found = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert float(result.metrics["mismatch/abs_max"]) < 1e-4


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_of_the_teacher_that_is_no_positive_number_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="teacher_temperature"):
        SelfDistillation(ShopRules(), teacher_temperature=temperature)


@pytest.mark.parametrize("of_teacher", [1.0, 0.6])
def test_a_gate_sees_both_sides_and_the_wrong_hints_at_the_temperature_of_the_batch(
    of_teacher: float, played: Any
) -> None:
    policy, episodes = played(0.5)
    seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    class Watching(Contrastive):
        def forward(self, inputs: GateInputs) -> Tensor:
            sides = (side.log_probs().clone() for side in (inputs.student, inputs.teacher))
            seen.append((*sides, inputs.wrong_hint_log_probs))
            return super().forward(inputs)

    objective = SelfDistillation(ShopRules(), gate=Watching(), teacher_temperature=of_teacher)
    batch = objective.prepare(episodes, policy, lambda local: local).batch
    objective.loss(policy, batch)
    for side, rows, factor in zip(seen[0], (batch.student, batch.teacher), (1.0, of_teacher), strict=False):
        expected = (policy.score(rows) / (0.5 * factor)).log_softmax(-1)
        torch.testing.assert_close(side, expected, rtol=1e-4, atol=1e-5)
    wrong = (policy.score(batch.negative_rows[0]) / (0.5 * of_teacher)).log_softmax(-1)
    wrong = wrong.gather(-1, batch.action_ids.unsqueeze(-1)).squeeze(-1)
    assert seen[0][2] is not None
    torch.testing.assert_close(seen[0][2][0], wrong, rtol=1e-4, atol=1e-5)


def test_greedy_episodes_count_as_temperature_one_and_mixtures_are_refused(played: Any) -> None:
    policy, greedy = played(0.0)
    assert {episode.temperature for episode in greedy} == {1.0}
    mixed = [greedy[0], replace(greedy[1], temperature=0.7)]
    with pytest.raises(TokenAlignmentError, match=r"0\.7"):
        tokenize(mixed, None, policy.dialect)
