"""What one training step leaves behind: its metrics, and a record per episode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hero_pl.batch import TokenizedBatch
from hero_pl.losses.base import combine
from hero_pl.objectives.base import LossOutput, Step
from hero_pl.runs.records import Record
from hero_pl.types import Trajectory


class StepOutputs:
    """Metrics and per-token values over the micro-batches of one step."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.tokens: list[tuple[TokenizedBatch, LossOutput]] = []
        self._loss = 0.0

    def add(self, micro: TokenizedBatch, out: LossOutput) -> None:
        """One micro-batch; its share of the loss adds up."""
        self._loss += float(out.loss.detach())
        self.tokens.append((micro, out))

    def finish(self, grad_norm: float) -> None:
        """Combine the metrics, weighted by tokens."""
        total = sum(len(micro) for micro, _ in self.tokens)
        combined = combine([(len(micro), out.metrics) for micro, out in self.tokens])
        self.metrics = {name: float(value) for name, value in combined.items()}
        self.metrics |= {"train/loss": self._loss, "train/grad_norm": grad_norm, "train/tokens": float(total)}


TOTALS = frozenset(
    {f"rollout/{name}" for name in ("action_tokens", "discarded_turns", "masked_episodes")}
    | {f"train/{name}" for name in ("tokens", "broken_episodes", "loss")}  # each rank has its share of the loss
    | {f"reflection/{name}" for name in ("tokens", "retries")}
    | {f"teacher/{name}" for name in ("tokens", "forwarded_tokens", "probe_tokens", "probe_turns", "overflow_turns")}
    | {f"teacher/{name}" for name in ("cut_observations", "dropped_targets", "rewritten_histories")}
    | {
        f"teacher/{name}"
        for name in ("no_demonstration", "unmatched_turns", "cut_demonstrations", "long_demonstrations")
    }
    | {"hero/out_of_scope_turns"}
)
"""Metrics that count what a rank did; they and ``reflection/issues/...`` add up over ranks."""
MAXIMA = frozenset(
    {"rollout/longest_context_tokens", "loss/max_token", "mismatch/abs_max", "policy_gradient/ratio_max"}
    | {"train/staleness"}
)
"""Metrics that are the largest of something."""


def over_ranks(parts: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """Metrics of one step over all ranks.

    Args:
        parts: Per rank the number of its episodes and its metrics. A metric may be missing or NaN on some.

    Returns:
        Totals added up, maxima, and for everything else the mean weighted by episodes; for percentiles and means over
        turns or tokens that is an approximation. NaN where no rank has a number.
    """
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for _, metrics in parts for name in metrics):
        known = [(weight, metrics[name]) for weight, metrics in parts if not math.isnan(metrics.get(name, math.nan))]
        values = [value for _, value in known]
        total = sum(weight for weight, _ in known)
        if not known:
            found[name] = math.nan
        elif name in TOTALS or name.startswith("reflection/issues/"):
            found[name] = sum(values)
        elif name in MAXIMA:
            found[name] = max(values)
        elif all(value == values[0] for value in values):
            found[name] = values[0]  # counters that all ranks share stay what they are
        else:
            found[name] = sum(w * v for w, v in known) / total if total else sum(values) / len(values)
    return found


def step_records(trajectories: list[Trajectory], step: Step, outputs: StepOutputs, number: int) -> list[Record]:
    """Trajectories with reflections and per-token values in the order of their turns."""
    columns: list[list[list[list[float] | None]]] = [[[None] * len(t.turns) for t in trajectories] for _ in range(3)]
    for micro, out in outputs.tokens:
        if out.per_token is None or len(step.batch.places) == 0:
            continue
        q = out.student_logprobs.exp() if out.student_logprobs is not None else None
        p = out.teacher_logprobs.exp() if out.teacher_logprobs is not None else None
        for column, values in zip(columns, (out.per_token, q, p), strict=True):
            if values is None:
                continue
            for turn, position, value in zip(
                micro.turn.tolist(), micro.position.tolist(), values.tolist(), strict=True
            ):
                i, j = micro.places[turn]
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
