"""What a rollout batch says about the policy that sampled it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hero_pl.evaluation.metrics import scores
from hero_pl.runs.records import evaluable
from hero_pl.types import FinishReason, StopReason, Trajectory


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
        # tool calls after the first of a reply, which are not carried out
        "rollout/further_calls": _mean([turn.further_calls for turn in turns]),
        # context that a template rewrote, so that it had to be computed again (hero_pl.chat.history)
        "rollout/rewritten_tokens": float(sum(int(t.info.get("rewritten_tokens", 0)) for t in trajectories)),
        "rollout/cut_actions": _mean([turn.finish_reason == FinishReason.LENGTH for turn in turns]),
    }
    for reason in StopReason:
        metrics[f"rollout/{reason}"] = _mean([t.stop_reason == reason for t in trajectories])
    return metrics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
