"""A minimal environment that follows the API of hero_pl: copy this file to start your own."""

from __future__ import annotations

from typing import Any

import gymnasium

from hero_envs.spaces import UnicodeText

COLORS = ("red", "green", "blue", "black")


class ToyEnv(gymnasium.Env[str, str]):
    """The first observation names a color. Reply with it to succeed; there are three turns."""

    def __init__(self) -> None:
        self.observation_space = self.action_space = UnicodeText()
        self.task_ids = [f"want-{color}" for color in COLORS]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start the task ``options["task"]``, or a random task."""
        super().reset(seed=seed)
        task = (options or {}).get("task") or self.task_ids[int(self.np_random.integers(len(self.task_ids)))]
        if task not in self.task_ids:
            raise ValueError(f"No task {task!r}; there are {', '.join(self.task_ids)}.")
        self.wanted, self.tries = task.removeprefix("want-"), 0
        return f"I want {self.wanted}.", {"task": task, "system_prompt": "Name a color.", "tools": [], "role": "user"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Reward 1 for the requested color; any other reply uses up a turn."""
        self.tries += 1
        won = action.strip().lower() == self.wanted
        answer = "Thank you!" if won else f"{action[:20]} is not what I want."
        return answer, float(won), won, not won and self.tries >= 3, {"role": "user", "success": won}
