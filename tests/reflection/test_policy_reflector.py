"""A second policy reviews: it is asked instead of the one that is trained, and does not learn."""

import pytest
import torch

from hero_pl.chat.actions import PlainText
from hero_pl.errors import ConfigError
from hero_pl.policy.base import Sampling
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.reflection.policy_reflector import PolicyReflector
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.rollout.collect import Collector, Draw, Limits


def packaged(name):
    return HuggingFacePolicy(f"hero_pl:{name}", parser=PlainText())


@pytest.fixture(scope="module")
def student():
    made = packaged("pocket-shop")
    made.load()
    return made


@pytest.fixture(scope="module")
def episodes(student):
    collector = Collector("hero_pl/WebShopPocket-v0", split="validation", limits=Limits(12, 128))
    draws = [Draw(task, i, i) for i, task in enumerate(collector.task_ids[:6])]
    return collector.collect(draws, student, Sampling(1.0, 12))


def test_the_reviewer_is_asked_and_not_the_policy_that_is_trained(student, episodes):
    other = packaged("pocket-shop-b")
    other.load()
    reflector = PolicyReflector(packaged("pocket-shop-b"), mode="continue", tokens_per_turn=16)
    reflector.start(student)
    found = reflector.reflect(episodes, student)
    alone = SelfReflector(mode="continue", tokens_per_turn=16)
    assert found == alone.reflect(episodes, other)
    assert found != alone.reflect(episodes, student)


def test_the_reviewer_s_weights_are_frozen_and_no_part_of_the_policy(student):
    reflector = PolicyReflector(packaged("pocket-shop-b"))
    before = set(student.state_dict())
    reflector.start(student)
    assert not any(parameter.requires_grad for parameter in reflector.policy.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert set(student.state_dict()) == before
    assert next(reflector.policy.parameters()).device == torch.device("cpu")


def test_another_tokenizer_is_refused_only_where_ids_are_shared(student):
    with pytest.raises(ConfigError, match="another tokenizer"):
        PolicyReflector(packaged("pocket-retail"), mode="continue").start(student)
    PolicyReflector(packaged("pocket-retail"), mode="transcript").start(student)


def test_settings_are_those_of_the_self_reflector(student):
    with pytest.raises(ConfigError, match="parallel=0"):
        PolicyReflector(packaged("pocket-shop-b"), parallel=0)
    assert PolicyReflector(packaged("pocket-shop-b"), temperature=0.5).temperature == 0.5
