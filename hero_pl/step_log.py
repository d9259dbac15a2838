"""What one training step leaves behind: its metrics, and a record per episode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hero_pl.batch import TokenizedBatch
from hero_pl.losses.base import combine
from hero_pl.metrics import scores
from hero_pl.objectives.base import LossOutput, Step
from hero_pl.records import Record, evaluable
from hero_pl.types import FinishReason, StopReason, Trajectory


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


def rollout_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """What a rollout batch says about the policy, over its evaluable episodes.

    Args:
        trajectories: The whole batch. The shares of stop reasons and ``rollout/action_tokens``, the tokens that were
            sampled, are over all of it.

    Returns:
        Means are NaN where there is nothing to average, so that nothing watches a zero that was never measured.
    """
    judged = [trajectory for trajectory in trajectories if evaluable(trajectory)]
    turns = [turn for trajectory in judged for turn in trajectory.turns]
    lengths: list[float] = [len(turn.action_ids) for turn in turns] or [math.nan]
    repeated = sum(len(t.turns) - len({turn.action or turn.text for turn in t.turns}) for t in judged)
    shown = scores(judged)
    metrics = {
        **{f"rollout/{name}": shown[name] for name in ("tool_errors", "do_nothing_floor") if name in shown},
        "rollout/success": shown["success"],
        "rollout/reward": _mean([t.reward for t in judged]),
        "rollout/turns_per_episode": shown["turns"],
        "rollout/action_tokens": float(sum(len(turn.action_ids) for t in trajectories for turn in t.turns)),
        "rollout/action_tokens_p50": float(np.percentile(lengths, 50)),
        "rollout/action_tokens_p95": float(np.percentile(lengths, 95)),
        "rollout/repeated_actions": repeated / len(turns) if turns else math.nan,
        # the mean of -log q over ids drawn from q estimates the entropy of q without bias
        "train/entropy": -_mean([value for turn in turns for value in turn.action_logprobs]),
        "rollout/malformed": shown["malformed"],
        "rollout/cut_actions": _mean([turn.finish_reason == FinishReason.LENGTH for turn in turns]),
    }
    for reason in StopReason:
        metrics[f"rollout/{reason}"] = _mean([t.stop_reason == reason for t in trajectories])
    return metrics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


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
