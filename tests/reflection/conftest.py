from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import settings

from hero_pl.reflection.context import ReflectionContext
from hero_pl.types import StopReason, Trajectory, Turn

settings.register_profile("untimed", deadline=None)  # a busy machine is no mistake
settings.load_profile("untimed")


def build_trajectory(
    actions: Sequence[str],
    observations: Sequence[str],
    *,
    task_id: str = "task-a",
    env_id: str = "shop",
    first_observation: str = "Please return the kettle of order W4410.",
    **changes: Any,
) -> Trajectory:
    turns = tuple(
        Turn(number, (1, 2), (3,), (-0.1,), action, action, observation, "tool")
        for number, (action, observation) in enumerate(zip(actions, observations, strict=True), 1)
    )
    values: dict[str, Any] = {
        "seed": 0,
        "group": 0,
        "system_prompt": "Confirm identity first.",
        "tools": ({"type": "function", "function": {"name": "find"}}, {"name": "order"}, {"name": "refund"}),
        "reward": 1.0,
        "stop_reason": StopReason.TERMINATED,
    }
    return Trajectory(task_id, env_id, first_observation=first_observation, turns=turns, **{**values, **changes})


@pytest.fixture
def make_trajectory() -> Callable[..., Trajectory]:
    return build_trajectory


@pytest.fixture
def trajectory() -> Trajectory:
    """Three turns; the second mistypes an id, the third brings up an item number that was unknown before."""
    return build_trajectory(
        [
            '{"name": "find", "arguments": {"email": "mia@shop.test"}}',
            '{"name": "order", "arguments": {"id": "W4401"}}',
            '{"name": "refund", "arguments": {"id": "W4410", "item": "8301557"}}',
        ],
        ["user_mia_2290", "no such order", "the refund goes to the card on file within ten days"],
    )


@pytest.fixture
def episode(trajectory: Trajectory) -> ReflectionContext:
    return ReflectionContext.of(trajectory)
