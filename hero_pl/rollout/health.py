"""Whether an environment can be played: tasks that always break are put in quarantine, too many end the run."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from hero_pl.errors import EnvError
from hero_pl.types import StopReason, Trajectory

WINDOW = 64
"""Latest episodes that are looked at."""
FEWEST = 8
"""The share is taken of so many at least, so that a run survives its first broken episodes."""
TASKS = 3
"""Different tasks that have to be among the broken episodes; one that always breaks is put in quarantine instead."""


class Health:
    """What has broken in one environment, and what to do about it.

    Args:
        env_id: For messages.
        tasks: How many the environment has.
        broken_share: See :class:`~hero_pl.rollout.limits.Limits`.
    """

    def __init__(self, env_id: str, tasks: int, broken_share: float) -> None:
        self.env_id, self.tasks, self.broken_share = env_id, tasks, broken_share
        self.quarantined: dict[str, str] = {}
        """Tasks that are not played, with what they broke by."""
        self.suspects: set[str] = set()
        """Tasks that broke in the latest batch that had them."""
        self._latest: deque[tuple[str, bool]] = deque(maxlen=WINDOW)

    def ended(self, trajectory: Trajectory) -> None:
        """Take notice of an episode that was played.

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
        """Put tasks in quarantine, now that a batch is over; in which order its episodes ended makes no difference.

        A task that could not be started is put there at once. One that broke later may owe it to what the policy did:
        it has to break in all its episodes of two batches in a row.

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
        warnings.warn(f"Task {task!r} of {self.env_id} always breaks and is not played any more: {why}", stacklevel=4)

    def state_dict(self) -> dict[str, Any]:
        """What decides which tasks are played."""
        return {"quarantined": dict(self.quarantined), "suspects": sorted(self.suspects)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.quarantined, self.suspects = dict(state["quarantined"]), set(state["suspects"])

    def agree(self, suspects_before: set[str], states: Sequence[Mapping[str, Any]]) -> None:
        """Take over what several processes found in one step.

        Args:
            suspects_before: Suspects before the step, the same in all processes.
            states: Of every process after it.
        """
        for state in states:
            self.quarantined |= state["quarantined"]
        found = [set(state["suspects"]) for state in states]
        still, fresh = suspects_before.intersection(*found), set().union(*found) - suspects_before
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
