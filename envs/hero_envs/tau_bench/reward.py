"""The reward: 1 if the end state is that of the ground truth and every required text was sent to the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hero_envs.tau_bench.database import Database, copy_json
from hero_envs.tau_bench.domain import Domain
from hero_envs.tau_bench.tasks import Action, Task


def score(domain: Domain, task: Task, data: Database, log: Sequence[Action]) -> dict[str, Any]:
    """Score one finished episode.

    Args:
        domain: Domain, for the ground-truth end state.
        task: Task of the episode.
        data: The episode's database; not changed.
        log: All actions of the episode; only messages sent with ``respond`` count for the outputs.

    Returns:
        ``{"reward": 0.0 or 1.0, "info": ..., "actions": ...}`` with JSON values only. As in the benchmark, ``info``
        is about the outputs if the task has any, otherwise about the end state.
    """
    reward = 1.0 if data.delta() == domain.end_state(task) else 0.0
    info: dict[str, Any]
    if task.outputs:
        replies = [
            _text(action.kwargs.get("content")).lower().replace(",", "") for action in log if action.name == "respond"
        ]
        outputs = {output: any(output.lower() in text for text in replies) for output in task.outputs}
        if not all(outputs.values()):
            reward = 0.0
        info = {"r_outputs": 1.0 if all(outputs.values()) else 0.0, "outputs": outputs}
    else:
        info = {"r_actions": reward, "gt_data_hash": domain.end_state_hash(task)}
    actions = [
        {"name": action.name, "kwargs": copy_json(dict(action.kwargs))}
        for action in task.actions
        if action.name != "respond"
    ]
    return {"reward": reward, "info": info, "actions": actions}


def _text(content: Any) -> str:
    return "" if content is None else str(content)
