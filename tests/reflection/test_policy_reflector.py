"""A second policy reviews instead of the trained one, and it is not trained."""

from pathlib import Path

import pytest
import torch

from hero_pl.chat.actions import PlainText
from hero_pl.errors import ConfigError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampling import Sampling
from hero_pl.reflection.policy_reflector import PolicyReflector
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.specs import EpisodeSpec

SECOND = str(Path(__file__).resolve().parents[2] / "benchmarks" / "checkpoints" / "pocket-shop-b")


def packaged(name):
    return HuggingFacePolicy(name, parser=PlainText())


@pytest.fixture(scope="module")
def student():
    made = packaged("hero_pl:pocket-shop")
    made.load()
    return made


@pytest.fixture(scope="module")
def episodes(student):
    collector = Collector("hero_pl/WebShopPocket-v0", split="validation", limits=Limits(12, 128))
    specs = [EpisodeSpec(task, i, i) for i, task in enumerate(collector.task_ids[:6])]
    return collector.collect(specs, student, Sampling(1.0, 12))


def test_the_reviewer_is_asked_and_not_the_policy_that_is_trained(student, episodes):
    other = packaged(SECOND)
    other.load()
    reflector = PolicyReflector(packaged(SECOND), mode="continue", tokens_per_turn=16)
    reflector.start(student)
    reflections = reflector.reflect(episodes, student)
    alone = SelfReflector(mode="continue", tokens_per_turn=16)
    assert reflections == alone.reflect(episodes, other)
    assert reflections != alone.reflect(episodes, student)


def test_the_reviewer_s_weights_are_frozen_and_no_part_of_the_policy(student):
    reflector = PolicyReflector(packaged(SECOND))
    before = set(student.state_dict())
    reflector.start(student)
    assert not any(parameter.requires_grad for parameter in reflector.policy.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert set(student.state_dict()) == before
    assert next(reflector.policy.parameters()).device == torch.device("cpu")


def test_another_tokenizer_is_refused_only_where_ids_are_shared(student):
    with pytest.raises(ConfigError, match="another tokenizer"):
        PolicyReflector(packaged("hero_pl:pocket-retail"), mode="continue").start(student)
    PolicyReflector(packaged("hero_pl:pocket-retail"), mode="transcript").start(student)


def test_settings_are_those_of_the_self_reflector(student):
    with pytest.raises(ConfigError, match="batch_size=0"):
        PolicyReflector(packaged(SECOND), batch_size=0)
    assert PolicyReflector(packaged(SECOND), temperature=0.5).review.temperature == 0.5
