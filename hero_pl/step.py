"""What one training step leaves behind: its metrics, and a record per episode."""

from __future__ import annotations

import math
from typing import Any

from hero_pl.batch import TokenizedBatch
from hero_pl.objectives.base import LossOutput, Step
from hero_pl.runs.records import Record
from hero_pl.scalars import Scalar, add_up, largest, total
from hero_pl.types import Trajectory


class StepOutputs:
    """Metrics and per-token values over the micro-batches of one step."""

    def __init__(self) -> None:
        self.tokens: list[tuple[TokenizedBatch, LossOutput]] = []
        self.grad_norm = math.nan

    def add(self, micro: TokenizedBatch, out: LossOutput) -> None:
        """One micro-batch."""
        self.tokens.append((micro, out))

    def metrics(self) -> dict[str, Scalar]:
        """Of this rank; empty for a step that no rank made."""
        if not self.tokens and math.isnan(self.grad_norm):
            return {}
        found = add_up([out.metrics for _, out in self.tokens])
        found["train/loss"] = total(sum(float(out.loss.detach()) for _, out in self.tokens))  # each has its share
        found["train/tokens"] = total(sum(len(micro) for micro, _ in self.tokens))
        found["train/grad_norm"] = largest(self.grad_norm)
        return found


def step_records(trajectories: list[Trajectory], step: Step, outputs: StepOutputs, number: int) -> list[Record]:
    """Trajectories with reflections and per-token values in the order of their turns."""
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
    pack = [[tuple(None if v is None else tuple(v) for v in rows) for rows in column] for column in columns]
    return [
        Record("train", number, t, reflections[i], pack[0][i], pack[1][i], pack[2][i])
        for i, t in enumerate(trajectories)
    ]
