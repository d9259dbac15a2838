"""One episode of the benchmark, without Gymnasium: the same observations, done flag and reward as the original.

It never raises because of an action of the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hero_envs.tau_bench.database import Database, copy_json
from hero_envs.tau_bench.domain import Domain
from hero_envs.tau_bench.reward import score
from hero_envs.tau_bench.tasks import Action, Task
from hero_envs.tau_bench.users.base import STOP, User

RESPOND = "respond"
"""Name of the action that sends a message to the user."""


@dataclass(frozen=True, slots=True)
class Step:
    """Result of one action."""

    observation: str
    reward: float
    done: bool
    source: str
    """``user``, or the name of the action."""
    reward_info: Mapping[str, Any] | None = None
    """Only at the end of the episode."""


class Episode:
    """One dialogue about one task.

    Args:
        domain: Shared by all episodes, never changed.
        task: Task to play and score.
        user: The user simulator; reset by ``start``.
    """

    def __init__(self, domain: Domain, task: Task, user: User) -> None:
        self.domain = domain
        self.task = task
        self.user = user
        self.data = Database(domain.base)
        self.log: list[Action] = []
        self.done = False

    def start(self) -> str:
        """Start the dialogue; return the user's first message."""
        return self.user.reset(self.task.instruction)

    def step(self, name: str, kwargs: Mapping[str, Any]) -> Step:
        """Execute one action; ``kwargs`` are copied first.

        Args:
            name: A tool's name or ``respond``; matched exactly.
            kwargs: JSON values.
        """
        if self.done:
            raise RuntimeError(f"Task {self.task.id}: step() after the end of the episode; start a new one.")
        action = Action(name, copy_json(dict(kwargs)))
        self.log.append(action)
        source = name
        if name == RESPOND:
            if "content" not in kwargs:
                observation = "Error: respond needs the argument 'content'"
            else:
                content = kwargs["content"]
                observation = self.user.step("" if content is None else str(content))
                source = "user"
                self.done = STOP in observation
        elif name in self.domain.tools:
            tool = self.domain.tools[name]
            observation = tool.call(self.data, action.kwargs)
            self.done = tool.terminal
        else:
            observation = f"Unknown action {name}"
        if not self.done:
            return Step(observation, 0.0, False, source)
        reward_info = score(self.domain, self.task, self.data, self.log)
        return Step(observation, reward_info["reward"], True, source, reward_info)
