"""Metrics over finished trajectories: torchmetrics classes that accumulate over batches and ranks.

:mod:`hero_pl.runs.records` defines success, tool errors and evaluable episodes. An episode that ended with an error of
the environment or its user simulator does not measure the policy: ``NonEvaluable`` counts it, and all other metrics
leave it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from hero_pl.errors import ConfigError
from hero_pl.runs.records import evaluable, is_error, succeeded
from hero_pl.scalars import Scalar, share, total
from hero_pl.types import FinishReason, Trajectory, Turn


def _tool_failed(turn: Turn, trajectory: Trajectory) -> bool:
    said_by_user = "user" in trajectory.info and turn.role == "user"
    return turn.malformed is None and not said_by_user and is_error(turn.observation)


TURN_SHARES: dict[str, Callable[[Turn, Trajectory], bool]] = {
    "tool_errors": _tool_failed,
    "malformed": lambda turn, trajectory: turn.malformed is not None,
    "cut_actions": lambda turn, trajectory: turn.finish_reason is FinishReason.LENGTH,
}
"""Conditions counted per turn, by name; an entry added here is logged in training, evaluations and summaries.

``tool_errors``: the environment answered the action with an error (neither a malformed reply nor a message of the
simulated user counts). ``malformed``: the reply could not be parsed as an action. ``cut_actions``: the reply reached
the length limit.
"""


def pass_hat_k(n: int, c: int, k: int) -> float:
    """Probability that all of ``k`` trials succeed, drawn without replacement from ``n`` trials with ``c`` successes.

    C(c,k) / C(n,k); Yao et al., arXiv 2406.12045, section 3.

    Example:
        >>> pass_hat_k(4, 3, 1), pass_hat_k(4, 3, 2), pass_hat_k(4, 3, 4)
        (0.75, 0.5, 0.0)
    """
    _check(n, c, k)
    return comb(c, k) / comb(n, k)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of ``k`` trials succeeds, drawn from ``n`` trials with ``c`` successes.

    1 - C(n-c,k) / C(n,k); Chen et al., arXiv 2107.03374, equation 1.

    Example:
        >>> pass_at_k(4, 3, 1), pass_at_k(4, 1, 2), pass_at_k(4, 1, 4)
        (0.75, 0.5, 1.0)
    """
    _check(n, c, k)
    return 1.0 - comb(n - c, k) / comb(n, k)


def _check(n: int, c: int, k: int) -> None:
    if not (0 <= c <= n and 1 <= k <= n):
        raise ConfigError(f"n={n} trials, c={c} successes, k={k}: expected 0 <= c <= n and 1 <= k <= n.")


class _Mean(Metric):
    """Sum of whole numbers and their count; NaN before the first update."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0, dtype=torch.long), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """Scalar mean, float32."""
        return self.total / self.count if self.count else torch.tensor(float("nan"))


class Success(_Mean):
    """Fraction of evaluable trajectories that succeeded, in [0, 1].

    Shapes: ``update`` takes a sequence of trajectories; ``compute`` returns a scalar.

    Example:
        >>> from hero_pl.types import StopReason
        >>> def played(reward):
        ...     return Trajectory("test-0", "env", 0, 0, "", (), "Hi", (), reward, StopReason.TERMINATED)
        >>> metric = Success()
        >>> metric.update([played(1.0), played(0.0)])
        >>> metric.compute()
        tensor(0.5000)
    """

    def update(self, trajectories: Sequence[Trajectory]) -> None:
        """Count a batch of finished trajectories."""
        judged = [trajectory for trajectory in trajectories if evaluable(trajectory)]
        self.total += sum(map(succeeded, judged))
        self.count += len(judged)


class MeanTurns(_Mean):
    """Mean number of assistant turns of evaluable trajectories; a scalar."""

    def update(self, trajectories: Sequence[Trajectory]) -> None:
        """Count a batch of finished trajectories."""
        judged = [trajectory for trajectory in trajectories if evaluable(trajectory)]
        self.total += sum(len(trajectory.turns) for trajectory in judged)
        self.count += len(judged)


class TurnShare(_Mean):
    """Fraction of the turns of evaluable trajectories that meet a condition, in [0, 1]; a scalar.

    Args:
        name: Name of the condition, see ``TURN_SHARES``.
        kwargs: Arguments of ``torchmetrics.Metric``.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if name not in TURN_SHARES:
            raise ConfigError(f"TurnShare({name!r}): expected one of {', '.join(TURN_SHARES)}.")
        self._counts = TURN_SHARES[name]

    def update(self, trajectories: Sequence[Trajectory]) -> None:
        """Count the turns of a batch of trajectories."""
        turns = [(turn, one) for one in trajectories if evaluable(one) for turn in one.turns]
        self.total += sum(self._counts(turn, one) for turn, one in turns)
        self.count += len(turns)


class NonEvaluable(Metric):
    """Number of trajectories that ended with an error of the environment or its user; a scalar, int64."""

    full_state_update = False
    broken: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("broken", torch.tensor(0, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, trajectories: Sequence[Trajectory]) -> None:
        """Count a batch of trajectories."""
        self.broken += sum(not evaluable(trajectory) for trajectory in trajectories)

    def compute(self) -> Tensor:
        """Scalar count, int64."""
        return self.broken


class _PerTask(Metric):
    """Counts trials and successes per task; averages ``estimate(n, c, k)`` over the tasks.

    Args:
        task_ids: All tasks that may occur, so that the state has the same shape on every rank.
        k: Number of trials drawn.
        kwargs: Arguments of ``torchmetrics.Metric``.
    """

    full_state_update = False
    trials: Tensor
    successes: Tensor

    def __init__(self, task_ids: Sequence[str], k: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if k < 1 or len(set(task_ids)) != len(task_ids) or not task_ids:
            raise ConfigError(
                f"{type(self).__name__}(k={k}, {len(task_ids)} task ids): expected k >= 1 and distinct task ids."
            )
        self.k = k
        self._index = {task_id: i for i, task_id in enumerate(task_ids)}
        zeros = torch.zeros(len(task_ids), dtype=torch.long)
        self.add_state("trials", zeros, dist_reduce_fx="sum")
        self.add_state("successes", zeros.clone(), dist_reduce_fx="sum")

    def update(self, trajectories: Sequence[Trajectory]) -> None:
        """Count a batch of finished trajectories."""
        for trajectory in trajectories:
            if not evaluable(trajectory):
                continue
            if trajectory.task_id not in self._index:
                raise ConfigError(
                    f"{type(self).__name__}: task {trajectory.task_id!r} is not one of the {len(self._index)} task ids "
                    "of this metric. Pass env.unwrapped.task_ids of the evaluated split."
                )
            self.trials[self._index[trajectory.task_id]] += 1
            self.successes[self._index[trajectory.task_id]] += int(succeeded(trajectory))

    def compute(self) -> Tensor:
        """Mean over the tasks that were tried, a scalar in [0, 1]; NaN if one of them has fewer than ``k`` trials.

        Leaving such a task out would give a score on a different set of tasks.
        """
        tried = [(n, c) for n, c in zip(self.trials.tolist(), self.successes.tolist(), strict=True) if n]
        if not tried or min(n for n, _ in tried) < self.k:
            return torch.tensor(float("nan"))
        return torch.tensor(sum(self.estimate(n, c, self.k) for n, c in tried) / len(tried))

    @staticmethod
    def estimate(n: int, c: int, k: int) -> float:
        """Estimate for one task, from ``n`` trials with ``c`` successes."""
        raise NotImplementedError


class PassHatK(_PerTask):
    """pass^k: probability that all of ``k`` trials of a task succeed; C(c,k) / C(n,k), averaged over tasks.

    Shapes: ``update`` takes a sequence of trajectories; ``compute`` returns a scalar. With ``k = 1`` and equally many
    trials per task it equals the success rate.

    Example:
        >>> from hero_pl.types import StopReason
        >>> def played(reward):
        ...     return Trajectory("test-0", "env", 0, 0, "", (), "Hi", (), reward, StopReason.TERMINATED)
        >>> metric = PassHatK(["test-0"], k=2)
        >>> metric.update([played(1.0), played(1.0), played(0.0)])
        >>> metric.compute()
        tensor(0.3333)
    """

    estimate = staticmethod(pass_hat_k)


class PassAtK(_PerTask):
    """pass@k: probability that at least one of ``k`` trials succeeds; 1 - C(n-c,k) / C(n,k), averaged over tasks.

    Shapes as in ``PassHatK``.
    """

    estimate = staticmethod(pass_at_k)


class DoNothingFloor(_Mean):
    """Success rate of an agent that does nothing, on the same episodes; print it next to every score.

    Environments report it at the start of each episode (``info["do_nothing_succeeds"]``); NaN if none does.

    Shapes: ``update`` takes a sequence of trajectories; ``compute`` returns a scalar in [0, 1].
    """

    def update(self, trajectories: Sequence[Trajectory]) -> None:
        """Count a batch of finished trajectories."""
        succeeds = [trajectory.info["do_nothing_succeeds"] for trajectory in trajectories if _tells_floor(trajectory)]
        self.total += sum(map(bool, succeeds))
        self.count += len(succeeds)


def _tells_floor(trajectory: Trajectory) -> bool:
    return evaluable(trajectory) and "do_nothing_succeeds" in trajectory.info


def scores(trajectories: Sequence[Trajectory]) -> dict[str, Scalar]:
    """Metrics that every log and table of episodes shows.

    Returns:
        ``success``, ``reward``, ``turns`` and the conditions of ``TURN_SHARES`` (means), ``non_evaluable`` (episodes)
        and, if the environment reports it, ``do_nothing_floor``.
    """
    shown: dict[str, _Mean] = {
        "success": Success(),
        "turns": MeanTurns(),
        **{name: TurnShare(name) for name in TURN_SHARES},
        "do_nothing_floor": DoNothingFloor(),
    }
    values = {}
    for name, metric in shown.items():
        metric.update(trajectories)
        values[name] = share(int(metric.total), int(metric.count))
    if not any(map(_tells_floor, trajectories)):
        del values["do_nothing_floor"]
    judged = [trajectory for trajectory in trajectories if evaluable(trajectory)]
    values["reward"] = share(sum(trajectory.reward for trajectory in judged), len(judged))
    return {**values, "non_evaluable": total(len(trajectories) - len(judged))}
