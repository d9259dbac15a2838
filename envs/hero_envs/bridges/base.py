"""What the bridges to generated tasks have in common: tasks by seed, and one line for a missing package."""

from __future__ import annotations

import importlib
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from hero_envs.bridges.seeds import seeds_of
from hero_envs.spaces import UnicodeText


def package(name: str, extra: str, title: str) -> Any:
    """Import an optional package.

    Args:
        name: Its import name.
        extra: The extra of hero_pl that installs it.
        title: Its name for people.

    Raises:
        ImportError: It is not installed; names the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{title} is not installed ({error}): pip install 'hero_pl[{extra}]'") from error


def judged(score: Callable[[], float]) -> tuple[float, dict[str, str]]:
    """A score from 0 to 1, and for ``info`` the reason where there is none.

    Args:
        score: Computes it. One that raises or is not finite counts as 0: an answer that cannot be read is wrong. A
            scorer that lacks a package fails in the same way, so the error is recorded as ``scoring_error``.
    """
    try:
        found = float(score())
        if not math.isfinite(found):
            raise ValueError(f"the score is {found}")
    except Exception as problem:
        return 0.0, {"scoring_error": f"{type(problem).__name__}: {problem}"[:500]}
    return min(1.0, max(0.0, found)), {}


class SeededEnv(gym.Env[str, str]):
    """An environment whose tasks are seeds of a generator.

    Args:
        name: First part of the task ids.
        split: A split of :mod:`hero_envs.bridges.seeds`.
        tasks: Number of tasks.
        world: Another number gives other tasks.
        system_prompt: Shown to the policy.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - the type is Gymnasium's

    def __init__(self, name: str, split: str, tasks: int | None, world: int, system_prompt: str) -> None:
        self._seeds = {f"{name}-{seed}": seed for seed in seeds_of(split, tasks, world)}
        self.task_ids = list(self._seeds)
        self.system_prompt = system_prompt
        self.action_space = self.observation_space = UnicodeText()
        self.task = ""
        self.over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start the task ``options["task"]``, or a random one.

        Raises:
            ValueError: There is no such task.
        """
        super().reset(seed=seed)
        task = (options or {}).get("task") or self.task_ids[int(self.np_random.integers(len(self.task_ids)))]
        if task not in self._seeds:
            raise ValueError(f"task={task!r}: expected one of task_ids, for example {self.task_ids[0]!r}.")
        text, info = self.begin(self._seeds[task])
        self.task, self.over = task, False
        start = {"system_prompt": self.system_prompt, "tools": [], "plain_replies": True}
        return text, {**info, "role": "user", "task": task, **start}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one action.

        Raises:
            gymnasium.error.ResetNeeded: The episode is over, or none was started.
        """
        if self.over:
            raise gym.error.ResetNeeded("This episode is over: call reset() before the next step().")
        text, reward, terminated, truncated, info = self.act(action)
        self.over = terminated or truncated
        return text, reward, terminated, truncated, {**info, "role": "user", "task": self.task}

    @abstractmethod
    def begin(self, seed: int) -> tuple[str, dict[str, Any]]:
        """Start the task of a seed: the first observation, and more for ``info``."""

    @abstractmethod
    def act(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take an action, as in ``step``; the last ``info`` has ``success``."""
