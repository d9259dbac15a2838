"""The results of one training step: its metrics, a record per episode, and whether the weights were updated."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hero_pl.batch import TokenizedBatch
from hero_pl.errors import HeroError, PolicyError
from hero_pl.objectives.base import LossOutput, Step
from hero_pl.rollout.ranks import of_each
from hero_pl.runs.records import Record
from hero_pl.scalars import Scalar, add_up, largest, total
from hero_pl.types import Trajectory


class StepOutputs:
    """Metrics and per-token values over the micro-batches of one step."""

    def __init__(self) -> None:
        self.tokens: list[tuple[TokenizedBatch, LossOutput]] = []
        self.grad_norm = math.nan

    def add(self, micro: TokenizedBatch, out: LossOutput) -> None:
        """Add one micro-batch."""
        self.tokens.append((micro, out))

    def metrics(self) -> dict[str, Scalar]:
        """The metrics of this rank; empty if no rank made the step."""
        if not self.tokens and math.isnan(self.grad_norm):
            return {}
        summed = add_up([out.metrics for _, out in self.tokens])
        summed["train/loss"] = total(sum(float(out.loss.detach()) for _, out in self.tokens))  # each has its share
        summed["train/tokens"] = total(sum(len(micro) for micro, _ in self.tokens))
        summed["train/grad_norm"] = largest(self.grad_norm)
        return summed


def over_ranks(metrics: Mapping[str, Scalar], world_size: int) -> dict[str, Scalar]:
    """The metrics of a step over all ranks, the same on each, so that the loggers of rank 0 log all of them."""
    added = add_up([metrics])
    return added if world_size == 1 else add_up(of_each(added))


BROKEN_BATCH = "broken_batch.jsonl"
FEW_BATCHES = 10
"""With fewer of them it can be chance that a whole run learns nothing; then the warning about the first is enough."""


class IdleBatches:
    """Counts consecutive batches without an optimizer step; the count is the same on all ranks.

    Args:
        most: Number that ends the run; 0: no limit.
    """

    def __init__(self, most: int) -> None:
        self.most, self.in_a_row = most, 0
        self.broken = False
        """Whether a gradient was not finite."""
        self.message = ""
        """Message about the latest one; empty before the first."""

    def count(self, updated: bool, metrics: Mapping[str, Scalar], step: int) -> bool:
        """Count one batch; true if it is the first of the run without an optimizer step.

        Args:
            updated: Whether there was an optimizer step.
            metrics: Metrics of the batch over all ranks; the message lists its counts.
            step: Number of optimizer steps before the batch.
        """
        self.in_a_row = 0 if updated else self.in_a_row + 1
        if updated:
            return False
        broken = "train/grad_norm" in metrics
        reason = "its gradient is not finite" if broken else "no turn of it is in the loss"
        self.broken |= broken
        counts = {name: float(m) for name, m in metrics.items() if m.how == "sum" and float(m) > 0.0}
        listed = ", ".join(f"{name} {value:g}" for name, value in counts.items())
        first = not self.message
        self.message = f"Nothing was learned from the batch after step {step}: {reason}. Its counts: {listed}."
        return first

    def state_dict(self) -> dict[str, Any]:
        """The count, for a checkpoint: a run that is interrupted often may still be one that learns nothing."""
        return {"in_a_row": self.in_a_row, "broken": self.broken, "message": self.message}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; older checkpoints are without a count."""
        self.in_a_row, self.broken = int(state.get("in_a_row", 0)), bool(state.get("broken", False))
        self.message = str(state.get("message", ""))

    def check(self) -> None:
        """End a run without optimizer steps.

        Raises:
            HeroError: There were ``most`` consecutive batches without an optimizer step.
        """
        if self.most and self.in_a_row >= self.most:
            raise HeroError(
                f"No optimizer step in {self.in_a_row} batches in a row; the run ends. {self.message} See the episodes "
                "with: hero_pl view RUN. To continue anyway, set model.max_idle_batches: 0."
            )

    def check_run(self, steps: int, excused: bool) -> None:
        """Say at the end of a run of ten batches or more that nothing was learned in it.

        Args:
            steps: Number of optimizer steps of the run, with those before it was resumed.
            excused: Whether rewards that give no signal can be the reason. Of methods that learn from rewards alone
                this is a result, to be compared with others, so it is only a warning.

        Raises:
            HeroError: There was no optimizer step.
        """
        if steps or not self.most or self.in_a_row < FEW_BATCHES:
            return
        said = f"No optimizer step in the whole run of {self.in_a_row} batches. {self.message}"
        if excused and not self.broken:
            warnings.warn(said, stacklevel=2)
            return
        raise HeroError(
            f"{said} Its files are complete; see the episodes with: hero_pl view RUN. If this is what you expect, set "
            "model.max_idle_batches: 0."
        )


def gradients_broken(batches: int, folder: Path | None) -> PolicyError:
    """The error that ends a run whose gradient is not finite again and again.

    Args:
        batches: Number of them in a row.
        folder: Folder of the run, with the last one.
    """
    return PolicyError(
        f"The gradient was not finite in {batches} batches in a row; their updates were skipped. "
        + (f"The last batch is in {folder / BROKEN_BATCH}. " if folder else "")
        + "Lower model.lr or model.clip, or look for weights or rewards that are not finite."
    )


def step_records(trajectories: list[Trajectory], step: Step, outputs: StepOutputs, number: int) -> list[Record]:
    """Trajectories with reflections, hints and per-token values in the order of their turns."""
    columns: list[list[list[list[float] | None]]] = [[[None] * len(t.turns) for t in trajectories] for _ in range(3)]
    for micro, out in outputs.tokens:
        if out.per_token is None or not step.batch.turn_numbers:
            continue
        q = out.student_logprobs.exp() if out.student_logprobs is not None else None
        p = out.teacher_logprobs.exp() if out.teacher_logprobs is not None else None
        for column, values in zip(columns, (out.per_token, q, p), strict=True):
            if values is None:
                continue
            places = (micro.trajectory.tolist(), micro.turn.tolist(), micro.position.tolist())
            for i, turn, position, value in zip(*places, values.tolist(), strict=True):
                j = micro.turn_numbers[turn]
                place = column[i][j - 1] or [math.nan] * len(trajectories[i].turns[j - 1].action_ids)
                place[position] = value
                column[i][j - 1] = place
    missing: list[Any] = [None] * len(trajectories)
    reflections = step.reflections or missing
    hints = [tuple(row) for row in step.hints] if step.hints is not None else missing
    pack = [[tuple(None if v is None else tuple(v) for v in rows) for rows in column] for column in columns]
    return [
        Record("train", number, t, reflections[i], pack[0][i], pack[1][i], pack[2][i], hints[i])
        for i, t in enumerate(trajectories)
    ]
