"""Metrics of a rollout batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hero_pl.chat.dialect import Dialect
from hero_pl.evaluation.metrics import scores
from hero_pl.evaluation.prompt_tokens import prompt_tokens
from hero_pl.runs.records import evaluable
from hero_pl.scalars import Scalar, mean, share, total
from hero_pl.types import StopReason, Trajectory


def rollout_metrics(
    trajectories: Sequence[Trajectory], discarded: Sequence[Trajectory], dialect: Dialect
) -> dict[str, Scalar]:
    """Metrics of a rollout batch, over its evaluable episodes.

    Args:
        trajectories: The whole batch. The fractions of stop reasons are over all its episodes.
        discarded: Episodes that were replaced by episodes of other tasks; their tokens and turns count as sampled.
        dialect: Dialect of the policy that played them.

    Returns:
        Metrics by name. The percentiles of action lengths are those of this batch; over several ranks they become the
        mean of the ranks' percentiles, weighted by turns.
    """
    judged = [trajectory for trajectory in trajectories if evaluable(trajectory)]
    turns = [turn for trajectory in judged for turn in trajectory.turns]
    lengths = [len(turn.action_ids) for turn in turns]
    repeated = sum(len(t.turns) - len({turn.action or turn.text for turn in t.turns}) for t in judged)
    logprobs = [value for turn in turns for value in turn.action_logprobs]
    metrics = {**scores(judged), **prompt_tokens(trajectories, dialect)}
    metrics["turns_per_episode"] = metrics.pop("turns")
    del metrics["non_evaluable"]  # 0 here by construction; train/broken_episodes counts them
    metrics["action_tokens"] = total(sum(len(turn.action_ids) for t in (*trajectories, *discarded) for turn in t.turns))
    metrics["discarded_turns"] = total(sum(len(t.turns) for t in discarded))
    for percent in (50, 95):
        metrics[f"action_tokens_p{percent}"] = mean(float(np.percentile(lengths or [0], percent)), len(turns))
    metrics["repeated_actions"] = share(repeated, len(turns))
    # tool calls after the first of a reply; they are not executed
    metrics["further_calls"] = share(sum(turn.further_calls for turn in turns), len(turns))
    # context tokens that a template changed, so that they had to be computed again (hero_pl.chat.history)
    metrics["rewritten_tokens"] = total(sum(int(t.info.get("rewritten_tokens", 0)) for t in trajectories))
    # episodes that broke and were played again, and answers that were too long
    metrics["retried_episodes"] = total(sum(bool(t.failures) for t in trajectories))
    cut = sum((t.cut_chars > 0) + sum(turn.cut_chars > 0 for turn in t.turns) for t in trajectories)
    metrics["cut_observations"] = total(cut)
    for reason in StopReason:
        metrics[str(reason)] = share(sum(t.stop_reason == reason for t in trajectories), len(trajectories))
    # the mean of -log q over ids sampled from q is an unbiased estimate of the entropy of q
    entropy = share(-sum(logprobs), len(logprobs))
    return {**{f"rollout/{name}": scalar for name, scalar in metrics.items()}, "train/entropy": entropy}
