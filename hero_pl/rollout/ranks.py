"""Episodes that several training processes (ranks) play together, and counts and states of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.distributed as dist

from hero_pl.errors import HeroError
from hero_pl.rollout.health import Health
from hero_pl.types import Trajectory


def over_ranks(
    health: Health, play: Callable[[], list[Trajectory]], gather: bool = False, suspects: set[str] | None = None
) -> tuple[list[Trajectory], list[list[Trajectory]]]:
    """Play this rank's share; all ranks agree on the tasks in quarantine, and an error of one ends all of them.

    Args:
        health: Of the environment that is played.
        play: Plays the share of this rank.
        gather: Whether each rank gets the episodes of all.
        suspects: Tasks that were suspects before the episodes; default: those of now.

    Returns:
        The episodes of this rank; and those of each rank, or of this one only without ``gather``.

    Raises:
        HeroError: Of this rank, or of the first other one with an error.
    """
    if not _together():
        played = play()
        return played, [played]
    suspects = set(health.suspects) if suspects is None else suspects
    played, error = [], None
    try:
        played = play()
    except HeroError as caught:  # the others wait for this rank
        error = caught
    found = of_each((health.state_dict(), error, played if gather else []))
    if error is not None:
        raise error
    for rank, (_, other, _) in enumerate(found):
        if other is not None:
            raise type(other)(f"Process {rank}: {other}")
    health.agree(suspects, [state for state, _, _ in found])
    return played, [share for _, _, share in found] if gather else [played]


def processes() -> int:
    """Number of training processes."""
    return dist.get_world_size() if _together() else 1


def summed(count: int) -> int:
    """Sum of a count over all training processes, which call this together."""
    return sum(of_each(count))


def of_each(value: Any) -> list[Any]:
    """The value of each training process, in order of their ranks; all of them call this together."""
    if not _together():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def own(values: Sequence[Any] | Mapping[str, Any]) -> Any:
    """This process's entry of :func:`of_each`; the first one if another number of processes wrote them.

    Args:
        values: Those of all processes; in older checkpoints only the state of the first one.
    """
    if isinstance(values, Mapping):
        return values
    return values[dist.get_rank() if len(values) == processes() > 1 else 0]


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
