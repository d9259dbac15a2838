"""Tasks of verifiers (version 0.4), the library behind a hub of environments: one reply per task, with its rewards.

``pip install 'hero_pl[verifiers]'``, and the package of an environment. verifiers plays its own rollouts, with tools in
servers and containers; a task that needs them is refused.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from hero_envs.bridges.base import judged, package
from hero_envs.spaces import UnicodeText

PARTS: Mapping[str, frozenset[int]] = {
    "train": frozenset(range(8)),
    "validation": frozenset({8}),
    "test": frozenset({9}),
    "all": frozenset(range(10)),
}
"""Split -> the last digits of the positions of its tasks."""


class VerifiersEnv(gym.Env[str, str]):
    """One task per episode; the only action is the reply, and its reward that of the task.

    Args:
        taskset: A class of the environment's package, as ``package.module:Class``.
        config: Settings of the task set.
        split: ``train`` (eight of ten tasks), ``validation`` or ``test`` (every tenth), or ``all``.
        tasks: Number of tasks that are read from the task set; needed if it is infinite.
        success_threshold: Smallest reward of a success.
        system_prompt: Text that replaces the system prompt of the tasks.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - the type is Gymnasium's

    def __init__(
        self,
        taskset: str,
        config: Mapping[str, Any] | None = None,
        split: str = "train",
        tasks: int | None = None,
        success_threshold: float = 1.0,
        system_prompt: str | None = None,
    ) -> None:
        self.package = package("verifiers.v1", "verifiers", "verifiers")
        if split not in PARTS:
            raise ValueError(f"split={split!r}: expected one of {', '.join(PARTS)}.")
        loaded = _load(taskset, dict(config or {}), self.package)
        if tasks is None and not loaded.bounded:
            raise ValueError(f"taskset={taskset!r} is infinite: set tasks to the number of tasks to read.")
        read = list(itertools.islice(loaded, tasks))
        self._tasks = {f"{number}": task for number, task in enumerate(read) if number % 10 in PARTS[split]}
        if not self._tasks:
            raise ValueError(f"split={split!r} is empty: the task set has only {len(read)} tasks. Use split='all'.")
        for task in self._tasks.values():
            _check(task, taskset)
        self.task_ids = list(self._tasks)
        self.success_threshold, self.system_prompt = success_threshold, system_prompt
        self.action_space = self.observation_space = UnicodeText()
        self.task = ""
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start the task ``options["task"]``, or a random one.

        Raises:
            ValueError: There is no such task.
        """
        super().reset(seed=seed)
        task = (options or {}).get("task") or self.task_ids[int(self.np_random.integers(len(self.task_ids)))]
        if task not in self._tasks:
            raise ValueError(f"task={task!r}: expected one of task_ids, for example {self.task_ids[0]!r}.")
        self.task, self._over = task, False
        data = self._tasks[task].data
        prompt = (data.system_prompt or "") if self.system_prompt is None else self.system_prompt
        info: dict[str, Any] = {
            "role": "user",
            "task": task,
            "system_prompt": prompt,
            "tools": [],
            "plain_replies": True,
        }
        return str(data.prompt_text), info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Score the reply.

        Raises:
            gymnasium.error.ResetNeeded: The episode is over, or none was started.
        """
        if self._over:
            raise gym.error.ResetNeeded("This episode is over: call reset() before the next step().")
        self._over = True
        trace = self._trace(self._tasks[self.task], action)

        def score() -> float:
            asyncio.run(self._tasks[self.task].score(trace))
            return float(trace.reward)

        reward, problem = judged(score)
        scores = {name: float(one.value) for name, one in trace.rewards.items() if one is not None}
        info: dict[str, Any] = {
            "role": "user",
            "task": self.task,
            "success": reward >= self.success_threshold,
            "scores": scores,
            **problem,
        }
        return f"Score {reward:.2f}.", reward, True, False, info

    def _trace(self, task: Any, reply: str) -> Any:
        """What the rewards read: the prompt and the reply, as if an agent of verifiers had written it."""
        vf = self.package
        said = reply.encode("utf-8", "replace").decode("utf-8")  # half a surrogate is no text for pydantic
        trace = vf.Trace(
            task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
            agent=vf.AgentInfo(config=vf.AgentConfig(), name="hero_pl"),
        )
        nodes = [vf.MessageNode(message=vf.UserMessage(content=task.data.prompt_text))]
        nodes.append(vf.MessageNode(parent=0, sampled=True, message=vf.AssistantMessage(content=said)))
        trace.nodes.extend(nodes)
        return trace


def _load(path: str, config: dict[str, Any], vf: Any) -> Any:
    module, _, name = path.partition(":")
    found = getattr(importlib.import_module(module), name, None) if name else None
    if not (isinstance(found, type) and issubclass(found, vf.Taskset)):
        raise ValueError(
            f"taskset={path!r}: expected package.module:Class of a class derived from verifiers.v1.Taskset."
        )
    kind = importlib.import_module("verifiers.v1.utils.generic").concrete_type(found, vf.TasksetConfig)
    return found((kind or vf.TasksetConfig)(**config))


def _check(task: Any, taskset: str) -> None:
    needs = [
        what
        for what, needed in (
            ("a container", task.NEEDS_CONTAINER or task.data.image is not None),
            ("tools", bool(type(task).toolsets(task.config))),
            ("a judge", bool(task.config.judges)),
            ("a prompt", task.data.prompt is None),
        )
        if needed
    ]
    if needs:
        raise ValueError(
            f"taskset={taskset!r} has a task that needs {' and '.join(needs)}: this bridge plays tasks with one "
            "prompt and one reply."
        )
