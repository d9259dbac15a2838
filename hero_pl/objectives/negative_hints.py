"""Hints of other turns, for gates that compare with the effect of *any* hint."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hero_pl.reflection.derange import Placed, derange, same
from hero_pl.types import Hint, Trajectory


def negative_hints(
    trajectories: Sequence[Trajectory], hints: Sequence[Sequence[Hint | None]], count: int
) -> list[list[list[str]]]:
    """Exchange the hints of a batch ``count`` times, so that each turn gets a hint of another turn.

    Hints with other tasks, other episodes and another content are preferred, at a similar length. A turn for which the
    batch has none with other words and another corrected action gets an empty hint: the teacher then sees what the
    student sees.

    Args:
        trajectories: One rollout batch; its seeds determine the exchange.
        hints: The true hints, per trajectory and turn.
        count: Number of exchanges.

    Returns:
        Texts in the same structure as ``hints``; empty where there is no true hint.
    """
    items = [
        Placed(hint.text, trajectory.env_id, trajectory.task_id, i, hint.turn, hint.target or None)
        for i, (trajectory, given) in enumerate(zip(trajectories, hints, strict=True))
        for hint in given
        if hint is not None
    ]
    seed = "/".join(str(trajectory.seed) for trajectory in trajectories) if count else ""
    sets = []
    for k in range(count):
        texts = [[""] * len(given) for given in hints]
        givers = derange(items, random.Random(f"{seed}/{k}"))
        for item, giver in zip(items, givers or (), strict=False):
            if not same(item, items[giver]):
                texts[item.episode][item.turn - 1] = items[giver].text
        sets.append(texts)
    return sets
