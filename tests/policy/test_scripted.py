"""A policy with predefined replies."""

import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy, ScriptedSampler
from hero_pl.types import FinishReason, ScoreRow


def loaded(policy: ScriptedPolicy) -> ScriptedPolicy:
    policy.load()
    return policy


def test_replies_come_in_order_and_the_last_one_repeats() -> None:
    policy = loaded(ScriptedPolicy(["one", "two"]))
    session = policy.sampler.open(policy, Sampling(), [1, 2])
    prompt = policy.template.first_prompt("", "hi")
    spoken = [session.act([0], [prompt])[0] for _ in range(3)]
    assert [policy.template.encoder.decode(action.ids) for action in spoken] == ["one", "two", "two"]
    assert policy.template.encoder.decode(session.act([1], [prompt])[0].ids) == "one"
    assert all(action.ids[-1] == policy.template.tokenizer.eos_token_id for action in spoken)


def test_a_function_sees_the_context_and_the_seed() -> None:
    policy = loaded(ScriptedPolicy(lambda context, seed: f"{'hi' in context} {seed}"))
    action = policy.sampler.open(policy, Sampling(), [7]).act([0], [policy.template.first_prompt("", "hi")])[0]
    assert policy.template.encoder.decode(action.ids) == "True 7"


def test_a_long_reply_is_cut_and_says_so() -> None:
    policy = loaded(ScriptedPolicy(["abcdef"]))
    session = policy.sampler.open(policy, Sampling(max_action_tokens=3), [0])
    action = session.act([0], [policy.template.first_prompt("", "hi")])[0]
    assert (len(action.ids), action.finish_reason) == (3, FinishReason.LENGTH)


def test_scores_are_bigrams_that_learn() -> None:
    policy = loaded(ScriptedPolicy())
    logits = policy.score([ScoreRow((1, 2, 3), ((1, 3),))])
    assert logits.shape == (2, 259)
    logits[0, 2].backward()
    assert policy.table.weight.grad is not None
    assert torch.nonzero(policy.table.weight.grad).tolist() == [[1, 2]]


def test_a_sampler_of_another_policy_is_refused_with_the_one_to_use() -> None:
    network = HuggingFacePolicy(config={"model_type": "qwen3"}, tokenizer="hero_pl:pocket-shop")
    with pytest.raises(ConfigError, match=r"ScriptedSampler .* ScriptedPolicy.* HuggingFacePolicy.* CachedSampler"):
        ScriptedSampler().open(network, Sampling(), [0])


@pytest.mark.parametrize("settings", [{"temperature": -1.0}, {"max_action_tokens": 0}])
def test_impossible_sampling_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Sampling(**settings)
