"""Packages that draw from the global generators: equal games in any number of threads, and no trace in the program."""

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from hero_envs.bridges import reasoning_gym, textarena
from hero_envs.bridges.reasoning_gym import ReasoningGymEnv
from hero_envs.bridges.textarena import TextArenaEnv


def draws(count=300):
    """Draws from both global generators."""
    return " ".join(f"{random.randint(0, 9)}{np.random.randint(10)}" for _ in range(count))


@pytest.fixture(autouse=True)
def short_turns():
    """Other threads get their turn between any two draws."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


class Dice:
    """What the bridge uses of a game of TextArena."""

    def reset(self, num_players, seed):
        self.said = [(0, draws(), "board")]

    def get_observation(self):
        said, self.said = self.said, []
        return 0, said

    def step(self, action):
        self.said = [(0, draws(), "board")]
        return False, {}


class Questions(list):
    """What the bridge uses of a data set of reasoning-gym; it draws when a question is read."""

    def __getitem__(self, index):
        return {"question": draws(), "answer": ""}


@pytest.fixture(params=[TextArenaEnv, ReasoningGymEnv])
def played(request, monkeypatch):
    """Plays the first moves of eight games, in so many threads."""
    games = SimpleNamespace(make=lambda name: Dice(), ObservationType=SimpleNamespace(PLAYER_ACTION="own"))
    sets = SimpleNamespace(create_dataset=lambda name, size, seed: Questions())
    monkeypatch.setattr(textarena, "package", lambda *names: games)
    monkeypatch.setattr(reasoning_gym, "package", lambda *names: sets)
    monkeypatch.setattr(reasoning_gym, "runs_text", lambda source: False)

    def one(number):
        env = request.param(tasks=8)
        texts = [env.reset(seed=0, options={"task": env.task_ids[number]})[0]]
        if request.param is TextArenaEnv:
            texts += [env.step("roll")[0] for _ in range(2)]
        return texts

    def play(threads):
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, range(8)))

    return play


def test_bug_785_games_in_threads_are_those_of_one_thread_and_leave_no_trace(played):
    random.seed(7)
    np.random.seed(7)
    before = random.getstate(), str(np.random.get_state())
    alone = played(1)
    assert len({str(texts) for texts in alone}) == 8
    assert played(8) == alone
    assert (random.getstate(), str(np.random.get_state())) == before
