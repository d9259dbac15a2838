"""Episodes played by the rules of the pocket shop: every one is a success."""

import pytest

from hero_pl.errors import ConfigError
from hero_pl.pocket.shop.expert import ShopExpert
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.specs import EpisodeSpec


def test_the_expert_buys_the_right_thing_in_every_task(tiny_policy) -> None:
    policy = tiny_policy()
    policy.load()
    collector = Collector("hero_pl/WebShopPocket-v0", split="train")
    specs = [EpisodeSpec(task, i, i) for i, task in enumerate(collector.task_ids[:20])]
    played = ShopExpert().make(specs, policy.dialect, collector)
    assert [t.reward for t in played] == [1.0] * 20
    assert [(t.task_id, t.seed) for t in played] == [(spec.task_id, spec.seed) for spec in specs]


def test_another_environment_is_refused(tiny_policy) -> None:
    policy = tiny_policy()
    policy.load()
    with pytest.raises(ConfigError, match="ShopExpert cannot play"):
        ShopExpert().make([EpisodeSpec("want-red", 0, 0)], policy.dialect, Collector("hero_pl/Toy-v0"))
