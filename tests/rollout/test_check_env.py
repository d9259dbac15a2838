"""check_env accepts environments that follow the API and names each rule that one breaks."""

from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium.spaces import Text

import hero_envs
from hero_envs.spaces import UnicodeText
from hero_pl.errors import ConfigError
from hero_pl.rollout.check_env import check_env
from hero_pl.rollout.environments import KEPT, OWN

gym.register_envs(hero_envs)


class Echo(gym.Env):
    """Follows the API: three tasks, ended by the word stop."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, fault=""):
        self.fault = fault
        self.action_space = UnicodeText()
        self.observation_space = Text(3) if fault == "space" else UnicodeText()
        self.task_ids = ["a", "a", "c"] if fault == "repeated ids" else ["a", "b", "c"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        task = (options or {}).get("task")
        if task is None:
            task = self.task_ids[int(self.np_random.integers(3))]
        if task not in self.task_ids and self.fault != "any task":
            raise ValueError(f"unknown task {task!r}")
        info = {"role": "user", "task": task, "system_prompt": "echo", "tools": []}
        if self.fault == "no role":
            del info["role"]
        if self.fault == "no tools":
            del info["tools"]
        if self.fault == "other task":
            info["task"] = "b"
        if self.fault == "a person":
            info["user"] = f"customer {task}"
        if self.fault == "a word":
            info["do_nothing_succeeds"] = "no"
        if self.fault == "not json":
            info["extra"] = {1, 2}
        return f"task {task}", info

    def step(self, action):
        if self.fault == "raises" and not action.strip():
            raise KeyError(action)
        reward = 7.0 if self.fault == "reward" else 0.5
        done = len(action) > 10
        info = {"role": "tool"}
        if done and self.fault != "no success":
            info["success"] = False
        if self.fault == "random":
            action += str(id(self))
        return action, reward, done, False, info


gym.register("hero_pl_tests/Echo-v0", entry_point=Echo, disable_env_checker=True, order_enforce=False)


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("hero_pl_tests/Echo-v0", {}),
        ("hero_pl/WebShopPocket-v0", {}),
        ("hero_pl/WebShop-v0", {"observation": "text_rich"}),
        ("hero_pl/WebShop-v0", {"observation": "compact", "split": "test"}),
    ],
)
def test_an_environment_that_keeps_the_contract_has_no_problems(env_id, options):
    assert check_env(env_id, **options) == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("space", "not in observation_space"),
        ("repeated ids", "1 repeated ids"),
        ("any task", "accepted a task that does not exist"),
        ("no role", "info['role'] is missing"),
        ("no tools", "info['tools'] is missing"),
        ("other task", "info['task'] is 'b'"),
        ("not json", "info['extra'] is of type set, for which JSON has no form"),
        ("raises", "mistakes of the model must come back as observations"),
        ("reward", "expected a number in [0, 1]"),
        ("no success", "info['success'] must be a bool"),
        ("random", "gave two different answers"),
    ],
)
def test_each_broken_promise_is_named(fault, words):
    problems = check_env("hero_pl_tests/Echo-v0", fault=fault)
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize("fault", ["no role", "reward", "raises", "not json"])
def test_a_problem_that_shows_in_many_places_is_reported_once_and_counted(fault):
    problems = check_env("hero_pl_tests/Echo-v0", fault=fault)
    contract = [problem for problem in problems if "check_env" not in problem]
    assert len(contract) == 1, contract
    assert contract[0].rpartition("... and ")[2].removesuffix(" more").isdigit()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("a person", ["info['user'] is 'customer a' for task 'a' and 'customer b' for task 'b'", "another key"]),
        ("a word", ["info['do_nothing_succeeds'] must be of type bool, not 'no'"]),
    ],
)
def test_bug_787_reserved_entries_of_info_are_checked(fault, words):
    problems = check_env("hero_pl_tests/Echo-v0", fault=fault)
    assert len(problems) == 1
    assert all(word in problems[0] for word in words)


def test_bug_787_every_reserved_entry_of_info_is_documented():
    page = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    assert [name for name in (*KEPT, *OWN) if f"`{name}`" not in page] == []


def test_an_environment_without_text_gets_one_clear_error_first():
    first, second, *others = check_env("CartPole-v1")
    assert first.startswith("action_space must be text (hero_envs.spaces.UnicodeText")
    assert second.startswith("observation_space must be text")
    assert any("task_ids must be a list" in problem for problem in others)
    assert not any("\x1b" in problem or "IndexError" in problem for problem in others), others


def test_an_unknown_environment_is_refused():
    with pytest.raises(ConfigError, match="WebShop"):
        check_env("hero_pl/WebShopp-v0")


class Raises(Echo):
    """Raises where the API requires an answer."""

    def __init__(self, where):
        super().__init__()
        self.where = where
        if where == "sample":
            self.action_space = BrokenSpace()
        if where == "no space":
            del self.observation_space
        if where == "no tasks":
            del self.task_ids

    def __getattribute__(self, name):
        if name == "task_ids" and object.__getattribute__(self, "__dict__").get("where") == "tasks":
            raise RuntimeError("no list of tasks")
        return super().__getattribute__(name)

    def reset(self, *, seed=None, options=None):
        if self.where == "reset" and options and options["task"] == "c":
            raise RuntimeError("no c today")
        text, info = super().reset(seed=seed, options=options)
        if self.where == "tools":
            info["tools"] = [{"type": "function"}, "x"]
        if self.where == "half":
            return text
        return text, None if self.where == "info" else info

    def step(self, action):
        if self.where == "exit" and "not sure" in action:
            raise SystemExit(1)
        return super().step(action)

    def close(self):
        if self.where == "close":
            raise RuntimeError("will not close")


class BrokenSpace(UnicodeText):
    def sample(self, mask=None, probability=None):
        raise RuntimeError("no sample")


gym.register("hero_pl_tests/Raises-v0", entry_point=Raises, disable_env_checker=True, order_enforce=False)


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("sample", "action_space must be text (hero_envs.spaces.UnicodeText or gymnasium's Text); its sample() raised"),
        ("no space", "observation_space must be text"),
        ("no tasks", "env.unwrapped.task_ids must be a list"),
        ("tasks", "raised RuntimeError('no list of tasks')"),
        ("reset", "reset(seed=1, options={'task': 'c'}): raised RuntimeError('no c today')"),
        ("tools", "info['tools'][0] is of type dict; expected {'type'"),
        ("half", "reset() returned 'task a'; expected (observation, info)"),
        ("info", "info is None; expected a dict"),
        ("exit", "step('I am not sure what to do next.'): raised SystemExit(1)"),
        ("close", "close(): raised RuntimeError('will not close')"),
    ],
)
def test_whatever_an_environment_raises_becomes_a_line_of_the_report(where, problem):
    lines = check_env("hero_pl_tests/Raises-v0", where=where)
    assert any(problem in line for line in lines), lines
