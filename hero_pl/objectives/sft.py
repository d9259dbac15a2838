"""Supervised training on actions: demonstrations, or the policy's own successes (rejection sampling)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hero_pl.batch import ReduceSum, TokenizedBatch, tokenize
from hero_pl.losses.normalize import normalized_sum, zero_loss
from hero_pl.objectives.base import LossOutput, Normalize, Objective, Step
from hero_pl.objectives.schedules import check_blend
from hero_pl.policy.base import Policy
from hero_pl.runs.records import reaches
from hero_pl.scalars import mean, share
from hero_pl.types import Trajectory


class SFT(Objective):
    """Negative log-likelihood of action tokens.

    Args:
        reward_threshold: Keep trajectories with at least this reward, up to rounding
            (``hero_pl.runs.records.TOLERANCE``); ``None`` keeps all (demonstrations).
        max_per_task: Maximum number of trajectories of one task in a batch; ``None`` for no limit.
        normalize: How the loss is averaged, see ``hero_pl.losses.normalize``.
        constant: Tokens per trajectory, for ``seq_mean_token_sum_norm``.
    """

    def __init__(
        self,
        reward_threshold: float | None = None,
        max_per_task: int | None = None,
        normalize: Normalize = "token_mean",
        constant: float | None = None,
    ) -> None:
        check_blend(normalize, None, constant)
        self.constant, self.rewards_alone = constant, reward_threshold is not None
        self.reward_threshold, self.max_per_task, self.normalize = reward_threshold, max_per_task, normalize

    @property
    def tolerates_stale(self) -> bool:
        """True: labels need not be samples of the student."""
        return True

    def prepare(self, trajectories: Sequence[Trajectory], policy: Policy, reduce_sum: ReduceSum) -> Step:
        """Select trajectories; exact duplicates count once when selecting by reward."""
        kept: set[int] = set()
        per_task: Counter[str] = Counter()
        seen: set[tuple[tuple[int, ...], ...]] = set()
        for i, trajectory in enumerate(trajectories):
            actions = tuple(turn.prompt_ids + turn.action_ids for turn in trajectory.turns)
            threshold = self.reward_threshold
            if threshold is not None and (not reaches(trajectory, threshold) or actions in seen):
                continue
            if self.max_per_task is not None and per_task[trajectory.task_id] >= self.max_per_task:
                continue
            seen.add(actions)
            per_task[trajectory.task_id] += 1
            kept.add(i)
        batch = tokenize(
            trajectories,
            None,
            policy.dialect,
            self.normalize,
            weight=lambda i, turn, hint: float(i in kept),
            constant=self.constant,
            reduce_sum=reduce_sum,
            device=next(policy.parameters()).device,
        )
        return Step(batch, {"sft/kept": share(len(kept), len(trajectories))})

    def loss(self, policy: Policy, micro: TokenizedBatch) -> LossOutput:
        """Mean negative log-likelihood."""
        student = policy.scores(micro.student)
        if len(micro) == 0:
            return LossOutput(zero_loss(student.values))
        log_q, best = student.of_actions_and_best(micro.action_ids)
        metrics = {"sft/accuracy": mean((best == micro.action_ids).float().mean(), len(micro))}
        return LossOutput(normalized_sum(micro.coefficient, -log_q), metrics, -log_q.detach(), log_q.detach(), None)
