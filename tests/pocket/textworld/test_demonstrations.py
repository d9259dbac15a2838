"""Demonstrations of TextWorld: the solution of a game, with as many mistakes as wanted."""

from itertools import pairwise

import pytest

from hero_pl.errors import ConfigError
from hero_pl.pocket.textworld.demonstrations import TextWorldDemonstrations
from hero_pl.pocket.textworld.reflector import TextWorldOracle, TextWorldRules
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.specs import EpisodeSpec


@pytest.fixture
def play(tmp_path_factory):
    pytest.importorskip("textworld", reason="needs the extra `textworld`")
    policy = ScriptedPolicy()
    policy.load()

    def episodes(**kwargs):
        arguments = {"level": "easy", "tasks": 3, "games_dir": str(tmp_path_factory.getbasetemp() / "games")}
        collector = Collector("hero_pl/TextWorld-v0", arguments, split="train")
        specs = [EpisodeSpec(task, 0, seed) for seed, task in enumerate(collector.env.unwrapped.task_ids)]
        return TextWorldDemonstrations(**kwargs).make(specs, policy.dialect, collector)

    return episodes


@pytest.mark.bridge
def test_without_mistakes_every_turn_is_right(play):
    episodes = play()
    assert [episode.info["success"] for episode in episodes] == [True] * 3
    for reflector in (TextWorldOracle(), TextWorldRules()):
        for reflection in reflector.reflect(episodes, None):
            assert all(one.text.startswith("right: ") for one in reflection.diagnoses)


@pytest.mark.bridge
def test_mistakes_are_followed_by_the_right_command_and_blamed_by_oracle_and_rules(play):
    episodes = play(habit=0.9, noise=0.9)
    for episode, oracle, rules in zip(
        episodes, TextWorldOracle().reflect(episodes, None), TextWorldRules().reflect(episodes, None), strict=True
    ):
        wrong = [one.next_action_target is not None for one in oracle.diagnoses]
        assert any(wrong)
        assert not any(one and other for one, other in pairwise(wrong))
        assert [one.text.startswith("right: ") for one in rules.diagnoses] == [not one for one in wrong], episode.turns


def test_another_environment_is_refused():
    policy = ScriptedPolicy()
    policy.load()
    collector = Collector("hero_pl/Toy-v0")
    with pytest.raises(ConfigError, match="info\\['policy_commands'\\]"):
        TextWorldDemonstrations().make([EpisodeSpec("want-red", 0, 0)], policy.dialect, collector)
