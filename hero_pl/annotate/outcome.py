"""Label rows by outcome: play the rest of the episode by rule, once without the turn in question and once with it.

The turns before it are repeated in the environment; from there the rules play to the end. The turn was a mistake if the
episode with it ends with less reward, or with the same reward and no fewer remaining turns. These labels depend on the
environment's response to an action, so they check the rules of :mod:`hero_pl.annotate.oracle`: the two agree only if
the actions that the rules call wrong reduce the reward or cost turns.
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
"""Turns that the rules may play; an episode that has not ended by then counts as reward 0."""
Step: TypeAlias = tuple[str, str | None]
"""An action and the reply of the environment; the reply is ``None`` where it is not known."""
_CURE = "The environment does not reproduce the recorded episode. Give the configuration of the run that recorded it."


def label_rows(
    rows: Sequence[Mapping[str, Any]], env: str, env_args: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return copies of the rows with labels for two of the questions; the others stay open.

    Args:
        rows: Rows returned by :func:`hero_pl.annotate.quality.sample_turns`.
        env: Gymnasium id of the environment of the episodes.
        env_args: Its arguments.

    Returns:
        Rows with ``turn_was_error`` and ``target_valid`` (whether the target action would not be a mistake). Both are
        open if no reward could be reached before the turn: then the outcome says nothing about the turn.

    Raises:
        HeroError: There are no rules for the environment, or it does not reproduce a recorded episode.
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
    situation_before(row)  # raises if there are no rules for the environment
    before: tuple[Step, ...] = tuple((turn["sent"], turn["reply"]) for turn in row["history"] if turn["sent"])
    reward, turns = value(row["task_id"], row["seed"], before)

    def wrong(step: Step) -> bool:
        then, left = value(row["task_id"], row["seed"], (*before, step))
        return then < reward or (then == reward and left >= turns)

    if reward <= 0.0:
        return {"turn_was_error": None, "target_valid": None}
    target = row["next_action_target"]
    return {
        # An unparsable reply changes nothing and costs a turn.
        "turn_was_error": wrong((row["sent"], row["reply"])) if row["sent"] else True,
        "target_valid": None if target is None else not wrong((canonical_action(target), None)),
    }


def _finish(env: environments.Env, task: str, seed: int, played: Sequence[Step]) -> tuple[float, int]:
    """Repeat the given steps, then play by rule; return the final reward and the number of turns played by rule."""
    reply = environments.begin(env, task, seed).observation
    situation = open_situation(reply)
    reward = 0.0
    for number in range(len(played) + MOST_TURNS):
        if situation is None:
            raise HeroError(f"Task {task!r} is a different task in this environment. {_CURE}")
        action, expected = played[number] if number < len(played) else (json.dumps(situation.right()), None)
        answer = environments.step(env, action)
        reply, reward = answer.observation, reward + answer.reward
        if expected is not None and reply != expected:
            raise HeroError(
                f"Task {task!r}: recorded reply of turn {number + 1} is {expected!r}, the new one {reply!r}. {_CURE}"
            )
        situation = situation.after(action, reply)
        if answer.terminated or answer.truncated:
            return reward, max(0, number + 1 - len(played))
    return 0.0, MOST_TURNS
