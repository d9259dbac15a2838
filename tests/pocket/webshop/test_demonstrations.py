"""Demonstrations of WebShop: the steps of its rules, with as many mistakes as wanted."""

import pytest

from hero_pl.errors import ConfigError
from hero_pl.pocket.webshop.demonstrations import WebShopDemonstrations
from hero_pl.pocket.webshop.reflector import WebShopRules
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.specs import EpisodeSpec


def played(env="hero_pl/WebShop-v0", arguments=None, **kwargs):
    policy = ScriptedPolicy()
    policy.load()
    collector = Collector(
        env, arguments or {"catalog": "generated", "products": 200, "difficulty": "easy"}, split="warmup"
    )
    specs = [EpisodeSpec(task, 0, seed) for seed, task in enumerate(collector.env.unwrapped.task_ids[:24])]
    return WebShopDemonstrations(**kwargs).make(specs, policy.dialect, collector)


def wrong(episodes):
    return {
        turn.text: one.text
        for episode, reflection in zip(episodes, WebShopRules().reflect(episodes, None), strict=True)
        for turn, one in zip(episode.turns, reflection.diagnoses, strict=True)
        if one.blames
    }


def test_without_mistakes_every_turn_is_right_and_most_episodes_succeed():
    episodes = played()
    assert wrong(episodes) == {}
    assert sum(episode.info["success"] for episode in episodes) >= 18


def test_a_habit_is_to_take_the_first_product_and_to_buy_too_early():
    mistakes = wrong(played(habit=0.9))
    assert any(text.startswith("click[G") for text in mistakes)
    assert "click[Buy Now]" in mistakes
    assert all(text.startswith(("click[G", "click[Buy Now]", "click[< Prev]")) for text in mistakes)


def test_noise_is_a_random_element_of_the_page():
    mistakes = wrong(played(noise=0.5))
    assert len(mistakes) > 10
    assert {text.partition(":")[0] for text in mistakes.values()} == {"wrong", "wasted"}


def test_another_environment_is_refused():
    with pytest.raises(ConfigError, match=r"cannot play data.env='hero_pl/WebShopPocket-v0'"):
        played("hero_pl/WebShopPocket-v0", {"system_prompt": "shop"})
    with pytest.raises(ConfigError, match=r"cannot play data.env='hero_pl/WebShop-v0'"):
        played(arguments={"catalog": "generated", "products": 50, "observation": "compact"})
