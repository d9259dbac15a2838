"""What was sampled at one temperature is compared at that temperature."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from hero_pl.batch import tokenize
from hero_pl.errors import TokenAlignmentError
from hero_pl.losses import JensenShannon, SampledToken
from hero_pl.objectives.mixed import Credit
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

    def play(temperature: float) -> Any:
        policy = tiny_policy()
        policy.load()
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(4.0)  # so that the temperature matters
        specs = [EpisodeSpec(task, i, i) for i, task in enumerate(shop.task_ids[:3])]
        return policy, shop.collect(specs, policy, Sampling(temperature, 4))

    return play


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
@pytest.mark.parametrize(
    "make",
    [
        lambda s: PolicyGradient(),
        lambda s: SelfDistillation(ShopRules(), divergence=SampledToken(temperature=s)),
        lambda s: SelfDistillation(ShopRules(), divergence=JensenShannon(temperature=s), logits_at_once=2),
    ],
    ids=["policy gradient", "sampled token", "in parts"],
)
def test_before_the_first_update_every_ratio_is_one(temperature: float, make: Any, played: Any) -> None:
    policy, episodes = played(temperature)
    objective = make(temperature)
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


def test_a_divergence_at_another_temperature_is_told_once(played: Any) -> None:
    policy, episodes = played(0.5)
    objective = SelfDistillation(ShopRules())
    step = objective.prepare(episodes, policy, lambda local: local)
    with pytest.warns(UserWarning, match=r"sampled at temperature 0\.5"):
        objective.loss(policy, step.batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective.loss(policy, step.batch)


def test_greedy_episodes_count_as_temperature_one_and_mixtures_are_refused(played: Any) -> None:
    policy, greedy = played(0.0)
    assert {episode.temperature for episode in greedy} == {1.0}
    mixed = [greedy[0], replace(greedy[1], temperature=0.7)]
    with pytest.raises(TokenAlignmentError, match=r"0\.7"):
        tokenize(mixed, None, policy)
