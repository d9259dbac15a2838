"""Labels by outcome: was a turn a mistake? Play the rest of its episode by rule, once without it and once with it.

The turns before the one in question are repeated in the environment, and from there the rules play to the end. A turn
was a mistake if the episode ends with less reward with it than without, or with the same reward but no turn sooner.
This looks at what the environment makes of an action, and so checks the rules that :mod:`hero_pl.annotate.oracle`
labels by: the two agree only if what the rules call wrong does harm.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

from hero_pl.annotate.oracle import situation_before
from hero_pl.errors import HeroError
from hero_pl.pocket.situation import open_situation
from hero_pl.reflection.target import canonical_action
from hero_pl.rollout import environments

MOST_TURNS = 30
"""After which an episode that does not end is given up."""
Step: TypeAlias = tuple[str, str | None]
"""What is sent to the environment, and what it answered, if that is known."""
_CURE = "The environment does not repeat what was recorded: name the configuration with which it was played."


def label_rows(
    rows: Sequence[Mapping[str, Any]], env: str, env_args: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Copies of the rows with labels; all questions but two are left open.

    Args:
        rows: As :func:`hero_pl.annotate.quality.sample_turns` made them.
        env: Gymnasium id of the environment that was played.
        env_args: Its arguments.

    Returns:
        Rows with ``turn_was_error``, and ``target_valid``: whether the target, taken instead, is none. Both are open
        where the episode was lost before the turn, for then nothing can be told from its end.

    Raises:
        HeroError: A row is of an environment without rules, or the environment does not repeat what was recorded.
    """
    made = environments.make(env, **dict(env_args or {}))

    @cache
    def value(task: str, seed: int, played: tuple[Step, ...]) -> tuple[float, int]:
        return _finish(made, task, seed, played)

    try:
        return [{**row, "rater": "outcome", "labels": {**row["labels"], **_labels(row, value)}} for row in rows]
    finally:
        made.close()


def _labels(
    row: Mapping[str, Any], value: Callable[[str, int, tuple[Step, ...]], tuple[float, int]]
) -> dict[str, bool | None]:
    situation_before(row)  # refuses what there are no rules for
    before: tuple[Step, ...] = tuple((turn["sent"], turn["reply"]) for turn in row["history"] if turn["sent"])
    reward, turns = value(row["task_id"], row["seed"], before)

    def wrong(step: Step) -> bool:
        then, left = value(row["task_id"], row["seed"], (*before, step))
        return then < reward or (then == reward and left >= turns)

    if reward <= 0.0:
        return {"turn_was_error": None, "target_valid": None}
    target = row["next_action_target"]
    return {
        # A reply that could not be read changes nothing and costs a turn.
        "turn_was_error": wrong((row["sent"], row["reply"])) if row["sent"] else True,
        "target_valid": None if target is None else not wrong((canonical_action(target), None)),
    }


def _finish(env: environments.Env, task: str, seed: int, played: Sequence[Step]) -> tuple[float, int]:
    """Repeat what was played, then go on by rule: the reward at the end, and the turns that the rules took."""
    reply = environments.begin(env, task, seed).observation
    situation = open_situation(reply)
    reward = 0.0
    for number in range(len(played) + MOST_TURNS):
        if situation is None:
            raise HeroError(f"Task {task!r} is another one here. {_CURE}")
        action, expected = played[number] if number < len(played) else (json.dumps(situation.right()), None)
        answer = environments.step(env, action)
        reply, reward = answer.observation, reward + answer.reward
        if expected is not None and reply != expected:
            raise HeroError(f"Task {task!r}: turn {number + 1} was answered by {expected!r}, now by {reply!r}. {_CURE}")
        situation = situation.after(action, reply)
        if answer.terminated or answer.truncated:
            return reward, max(0, number + 1 - len(played))
    return 0.0, MOST_TURNS
