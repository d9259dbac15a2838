"""Track broken episodes: tasks that always break are put in quarantine, too many end the run."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from hero_pl.errors import EnvError
from hero_pl.types import StopReason, Trajectory

WINDOW = 64
"""Number of latest episodes that are counted."""
FEWEST = 8
"""Minimum denominator of the share, so that a run does not end at its first broken episodes."""
TASKS = 3
"""Minimum number of different tasks in the broken episodes; a task that always breaks is put in quarantine instead."""


class Health:
    """Broken episodes and tasks of one environment.

    Args:
        env_id: Name of the environment, for messages.
        tasks: Number of tasks of the environment.
        broken_share: See :class:`~hero_pl.rollout.limits.Limits`.
    """

    def __init__(self, env_id: str, tasks: int, broken_share: float) -> None:
        self.env_id, self.tasks, self.broken_share = env_id, tasks, broken_share
        self.quarantined: dict[str, str] = {}
        """Tasks that are not played, with the error."""
        self.suspects: set[str] = set()
        """Tasks that broke in their latest batch."""
        self._latest: deque[tuple[str, bool]] = deque(maxlen=WINDOW)

    def ended(self, trajectory: Trajectory) -> None:
        """Count an episode that was played.

        Raises:
            EnvError: Too many of the latest ones are broken.
        """
        self._latest.append((trajectory.task_id, broken(trajectory)))
        tasks = [task for task, is_broken in self._latest if is_broken]
        if not broken(trajectory) or len(set(tasks)) < min(TASKS, self.tasks):
            return
        if len(tasks) > self.broken_share * max(FEWEST, len(self._latest)):
            raise self._too_many(
                f"{len(tasks)} of the latest {len(self._latest)} episodes of {self.env_id} are broken. The last one: "
                f"{trajectory.info.get('error', '')}"
            )

    def judge(self, trajectories: Sequence[Trajectory]) -> None:
        """Put tasks in quarantine after a batch; the order in which its episodes ended has no effect.

        A task that could not be started is put there after its first batch. If a task broke later, the cause may be the
        actions of the policy, so it has to break in all its episodes of two consecutive batches.

        Raises:
            EnvError: There are too many of them.
        """
        for task in dict.fromkeys(t.task_id for t in trajectories):
            mine = [trajectory for trajectory in trajectories if trajectory.task_id == task]
            if not all(map(broken, mine)):
                self.suspects.discard(task)
            elif task in self.suspects or not any(trajectory.turns for trajectory in mine):
                self._put_in_quarantine(task, str(mine[-1].info.get("error", "")))
            else:
                self.suspects.add(task)
        self._check()

    def _put_in_quarantine(self, task: str, why: str) -> None:
        self.suspects.discard(task)
        self.quarantined[task] = why
        warnings.warn(f"Task {task!r} of {self.env_id} always breaks and is no longer played: {why}", stacklevel=4)

    def state_dict(self) -> dict[str, Any]:
        """The state that determines which tasks are played, and when the run ends."""
        return {
            "quarantined": dict(self.quarantined),
            "suspects": sorted(self.suspects),
            "latest": list(self._latest),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.quarantined, self.suspects = dict(state["quarantined"]), set(state["suspects"])
        self._latest = deque(((task, is_broken) for task, is_broken in state.get("latest", ())), maxlen=WINDOW)

    def agree(self, suspects_before: set[str], states: Sequence[Mapping[str, Any]]) -> None:
        """Merge the states of several processes after one step.

        Args:
            suspects_before: Suspects before the step, the same in all processes.
            states: States of all processes after it.
        """
        for state in states:
            self.quarantined |= state["quarantined"]
        suspects = [set(state["suspects"]) for state in states]
        still, fresh = suspects_before.intersection(*suspects), set().union(*suspects) - suspects_before
        self.suspects = (still | fresh) - self.quarantined.keys()

    def _check(self) -> None:
        count = len(self.quarantined)
        if count and (count > self.broken_share * self.tasks or count >= self.tasks):
            raise self._too_many(
                f"{count} of {self.tasks} tasks of {self.env_id} always break. The last one, "
                f"{next(reversed(self.quarantined))!r}: {next(reversed(self.quarantined.values()))}"
            )

    def _too_many(self, what: str) -> EnvError:
        return EnvError(
            f"{what} The run ends: data.limits.broken_share={self.broken_share:g} allows no more. Check the "
            f"environment with: hero_pl check-env {self.env_id}"
        )


def broken(trajectory: Trajectory) -> bool:
    """Whether the environment broke the episode."""
    return trajectory.stop_reason in (StopReason.ENV_ERROR, StopReason.ENV_TIMEOUT)
