"""Games of TextArena for one player: rewards, words of the game alone, and randomness of its own."""

import random

import pytest

from hero_envs.bridges.textarena import TextArenaEnv
from hero_pl.rollout.check_env import check_env

pytestmark = pytest.mark.bridge


@pytest.fixture(autouse=True)
def needed():
    """Skips what needs the package."""
    pytest.importorskip("textarena", reason="needs the extra `textarena`")


@pytest.mark.parametrize("game", ["GuessTheNumber-v0", "Mastermind-v0", "TowerOfHanoi-v0", "FrozenLake-v0"])
def test_it_follows_the_api(game):
    assert check_env("hero_pl/TextArena-v0", game=game, tasks=5) == []


def test_a_game_can_be_won_and_its_messages_are_those_of_the_game():
    env = TextArenaEnv(tasks=1)
    first, _ = env.reset(seed=0)
    assert "Guess The Number" in first
    low, high, over = 1, 20, False
    while not over:
        text, reward, over, _, info = env.step(f"I say [{(low + high) // 2}]")
        assert "I say" not in text
        low, high = (((low + high) // 2) + 1, high) if "higher" in text else (low, (low + high) // 2 - 1)
    assert (reward, info["success"]) == (1.0, True)


def test_a_game_ends_at_the_limit_of_moves():
    env = TextArenaEnv("TowerOfHanoi-v0", tasks=1, max_steps=2)
    env.reset(seed=0)
    assert [env.step(move)[3] for move in ("[A B]", "[B A]")] == [False, True]


def test_games_at_the_same_time_do_not_disturb_each_other_or_the_program():
    def play(*others):
        env = TextArenaEnv("2048-v0", tasks=2)
        texts = [env.reset(seed=0, options={"task": env.task_ids[0]})[0]]
        for move in ("[left]", "[up]", "[left]", "[up]"):
            for other in others:
                other.step("[right]")
            texts.append(env.step(move)[0])
        return texts

    other = TextArenaEnv("2048-v0", tasks=2)
    other.reset(seed=0, options={"task": other.task_ids[1]})
    random.seed(5)
    alone, following = play(), random.random()
    random.seed(5)
    assert play(other) == alone
    assert random.random() == following == random.Random(5).random()


def test_an_unknown_game_is_refused():
    with pytest.raises(ValueError, match="no game of this name"):
        TextArenaEnv("NoSuchGame-v0")


def test_bug_786_different_seeds_can_be_the_same_game():
    def contents(game):
        train, test = (TextArenaEnv(game, split) for split in ("train", "test"))
        return {train.content(task) for task in train.task_ids}, [test.content(task) for task in test.task_ids]

    trained, held_out = contents("TowerOfHanoi-v0")
    assert (len(trained), sum(one in trained for one in held_out)) == (1, 200)
    trained, held_out = contents("Mastermind-v0")  # they begin alike, and the hidden codes differ
    assert len(trained) > 100
    assert 0 < sum(one in trained for one in held_out) < 150
