"""Policy-gradient objectives: GRPO and its variants, RLOO, REINFORCE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hero_pl.batch import PolicyTerm, ReduceSum, TokenizedBatch, tokenize
from hero_pl.errors import ConfigError, check_choice
from hero_pl.losses.advantages import (
    EQUAL_REWARDS,
    ReinforceBaseline,
    dr_grpo_advantages,
    frac_zero_std,
    grpo_advantages,
    maxrl_advantages,
    rloo_advantages,
    soft_overlong_penalty,
    without_spread,
)
from hero_pl.losses.importance import mismatch
from hero_pl.losses.normalize import normalized_sum, zero_loss
from hero_pl.losses.policy_gradient import ClippedPolicyGradient, Surrogate
from hero_pl.losses.scores import Scores
from hero_pl.objectives.base import LossOutput, Normalize, Objective, Step
from hero_pl.objectives.schedules import check_blend
from hero_pl.policy.base import Copies, Policy
from hero_pl.runs.records import evaluable
from hero_pl.scalars import Scalar, mean, total
from hero_pl.types import StopReason, Trajectory

CUT = (StopReason.TRUNCATED, StopReason.MAX_TURNS, StopReason.CONTEXT_FULL)
"""Stop reasons of episodes that ended at a limit."""


class PolicyGradient(Objective):
    """REINFORCE: reward minus a baseline on every action token; works with one trajectory per task.

    Args:
        baseline: ``none``, the mean of the ``batch``, or the ``running`` mean of earlier batches.
        normalize: How the loss is averaged, see ``hero_pl.losses.normalize``.
        constant: Tokens per trajectory, for ``seq_mean_token_sum_norm``.
        epsilon: Clip range of the ratio below 1.
        epsilon_high: Clip range above 1; default: ``epsilon``.
        ratio_level: Ratio per ``token`` or per ``sequence`` (GSPO).
        beta_kl: Weight of the k3 penalty toward the initial weights.
        zero_variance: Groups with equal rewards ``keep`` their tokens in the denominator, or ``mask`` them out.
        mask_truncated: Leave episodes out of the loss that ended at a limit.
        dual_clip: Bound on the loss per unit of a negative advantage (3.0 in verl); default: none.
        surrogate: ``clip``, or ``cispo``, where every token keeps its gradient.
    """

    rewards_alone = True

    def __init__(
        self,
        baseline: Literal["none", "batch", "running"] = "running",
        normalize: Normalize = "token_mean",
        constant: float | None = None,
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        ratio_level: Literal["token", "sequence"] = "token",
        beta_kl: float = 0.0,
        zero_variance: Literal["keep", "mask"] = "keep",
        mask_truncated: bool = False,
        dual_clip: float | None = None,
        surrogate: Surrogate = "clip",
    ) -> None:
        check_choice(type(self).__name__, "zero_variance", zero_variance, ("keep", "mask"))
        self.baseline = ReinforceBaseline(baseline)
        check_blend(normalize, None, constant)
        self.normalize, self.constant, self.zero_variance = normalize, constant, zero_variance
        self.mask_truncated = mask_truncated
        self.surrogate = ClippedPolicyGradient(
            epsilon, epsilon_high, ratio_level, beta_kl, dual_clip=dual_clip, surrogate=surrogate
        )

    @property
    def copies(self) -> Copies:
        """The initial weights, if the penalty needs them."""
        return {"initial": None} if self.surrogate.kl_weight else {}

    @property
    def tolerates_stale(self) -> bool:
        """True: its ratio and its clipping are the correction."""
        return True

    def advantages(self, rewards: Tensor, groups: Tensor, reduce_sum: ReduceSum = lambda local: local) -> Tensor:
        """One advantage per trajectory; ``reduce_sum`` sums over ranks."""
        return self.baseline.advantages(rewards, reduce_sum)

    def without_signal(self, advantages: Tensor, groups: Tensor, rewards: Tensor) -> Tensor:
        """``(trajectories,)`` bool: trajectories that ``zero_variance: mask`` leaves out of the loss."""
        return advantages == 0.0

    def shape(self, rewards: Tensor, trajectories: Sequence[Trajectory]) -> Tensor:
        """Rewards from which the advantages are computed."""
        return rewards

    def uncut(self, trajectories: Sequence[Trajectory]) -> Tensor:
        """``(trajectories,)`` weights: 0 for those that ``mask_truncated`` leaves out of the loss, else 1."""
        cut = [self.mask_truncated and trajectory.stop_reason in CUT for trajectory in trajectories]
        return 1.0 - torch.tensor(cut, dtype=torch.float64)

    @property
    def of_rewards(self) -> list[str]:
        """Settings that look at the rewards of the episodes, beside the estimator itself."""
        return [] if self.zero_variance == "keep" else [f"zero_variance={self.zero_variance}"]

    def term(
        self, trajectories: Sequence[Trajectory], reduce_sum: ReduceSum = lambda local: local
    ) -> tuple[PolicyTerm, dict[str, Scalar]]:
        """Advantages and weights of a rollout batch, and metrics about them."""
        rewards = torch.tensor([trajectory.reward for trajectory in trajectories], dtype=torch.float64)
        groups = torch.tensor([trajectory.group for trajectory in trajectories], dtype=torch.long)
        shaped = self.shape(rewards, trajectories)
        advantages = self.advantages(shaped, groups, reduce_sum)
        weight = self.uncut(trajectories)
        if self.zero_variance != "keep":
            compared = rewards if self.redraws else shaped  # as in `redraw`: a penalty on length is no success
            weight = weight.masked_fill(self.without_signal(advantages, groups, compared), 0.0)
        count = len({trajectory.group for trajectory in trajectories})
        metrics = {"rollout/frac_reward_zero_std": mean(frac_zero_std(rewards, groups), count)}
        metrics["rollout/masked_episodes"] = total((weight == 0.0).sum())
        return PolicyTerm(advantages.tolist(), weight.tolist(), self.normalize, self.constant), metrics

    def prepare(self, trajectories: Sequence[Trajectory], policy: Policy, reduce_sum: ReduceSum) -> Step:
        """Compute advantages, and build a batch with every action token of every turn."""
        term, metrics = self.term(trajectories, reduce_sum)
        batch = tokenize(
            trajectories,
            None,
            policy.dialect,
            self.normalize,
            weight=lambda i, turn, hint: term.weight[i],
            advantage=term.advantage,
            constant=self.constant,
            reduce_sum=reduce_sum,
            device=next(policy.parameters()).device,
        )
        return Step(batch, metrics)

    def loss(self, policy: Policy, micro: TokenizedBatch) -> LossOutput:
        """Clipped surrogate on the recorded log-probabilities."""
        return self.surrogate_loss(policy, micro.tempered(policy.scores(micro.student)), micro, micro.coefficient)

    def surrogate_loss(self, policy: Policy, student: Scores, micro: TokenizedBatch, coefficient: Tensor) -> LossOutput:
        """The loss from the student's scores of the ids of ``micro``, at the sampling temperature."""
        if len(micro) == 0:
            return LossOutput(zero_loss(student.values))
        log_q = student.of_actions(micro.action_ids)
        reference = None
        if self.surrogate.kl_weight:
            with policy.sampling():
                initial = micro.tempered(policy.scores(micro.student, "initial"))
                reference = initial.of_actions(micro.action_ids)
        per_token = self.surrogate(log_q, micro.rollout_logprobs, micro.advantage, micro.trajectory, reference)
        metrics = {**mismatch(log_q, micro.rollout_logprobs), **self.surrogate.diagnostics}
        return LossOutput(normalized_sum(coefficient, per_token), metrics, per_token.detach(), log_q.detach(), None)

    def state_dict(self) -> dict[str, Any]:
        """State of the running baseline."""
        return {"baseline": self.baseline.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.baseline.load_state_dict(state["baseline"])


class _GroupObjective(PolicyGradient):
    """Base of objectives that compare trajectories within a group."""

    def without_signal(self, advantages: Tensor, groups: Tensor, rewards: Tensor) -> Tensor:
        """Trajectories of groups with equal rewards."""
        return without_spread(rewards, groups)

    def check(self, group_size: int) -> None:
        """Refuse groups of one, whose advantage would always be 0."""
        if group_size < 2:
            raise ConfigError(
                f"{type(self).__name__} compares trajectories of one task, so group_size={group_size} gives advantage "
                "0 everywhere and nothing is learned. Set data.group_size to 2 or more (8 is usual), or use "
                "PolicyGradient (REINFORCE) for single trajectories."
            )


@dataclass(frozen=True, slots=True)
class SoftOverlong:
    """DAPO's penalty on episodes close to a length limit, from 0 to -1, added to the reward.

    Args:
        longest: Action tokens of an episode at which the penalty reaches -1.
        buffer: Number of action tokens before that over which it grows.
    """

    longest: int
    buffer: int

    def __post_init__(self) -> None:
        if not 1 <= self.buffer <= self.longest:
            raise ConfigError(
                f"overlong: longest={self.longest}, buffer={self.buffer}: expected 1 <= buffer <= longest, because the "
                "penalty grows over the last `buffer` action tokens before `longest`."
            )


class GRPO(_GroupObjective):
    """Group-relative policy optimization, with the options of Dr.GRPO, DAPO, BNPO and GSPO.

    Args:
        scale_rewards: Divide by the standard deviation of the ``group``, its ``mean`` (MaxRL), or ``none`` (Dr.GRPO).
        normalize: How the loss is averaged, see ``hero_pl.losses.normalize``.
        constant: Tokens per trajectory, for ``seq_mean_token_sum_norm`` (Dr.GRPO).
        epsilon: Clip range of the ratio below 1.
        epsilon_high: Clip range above 1 (DAPO: 0.28); default: ``epsilon``.
        ratio_level: Ratio per ``token`` or per ``sequence`` (GSPO).
        beta_kl: Weight of the k3 penalty toward the initial weights.
        zero_variance: Groups with equal rewards ``keep`` their tokens in the denominator, ``mask`` them out, or are
            replaced by groups of other tasks (``resample``, DAPO's dynamic sampling); groups that are still equal after
            ``max_resample`` tries are masked out. Discarded turns count toward the turn budget. Such groups have
            advantage 0, so ``mask`` changes the denominator only. Where that is fixed
            (``seq_mean_token_mean_keep_empty``, the default, and ``seq_mean_token_sum_norm``) the gradient is that of
            ``keep``, without the passes over these groups and without their part of the penalty ``beta_kl``.
        max_resample: Maximum number of tries per batch.
        overlong: Penalty on episodes close to a length limit (DAPO).
        mask_truncated: Leave episodes out of the loss that ended at a limit.
        dual_clip: Bound on the loss per unit of a negative advantage (3.0 in verl); default: none.
        surrogate: ``clip``, or ``cispo``, where every token keeps its gradient (MiniMax-M1).
    """

    def __init__(
        self,
        scale_rewards: Literal["group", "mean", "none"] = "group",
        normalize: Normalize = "seq_mean_token_mean_keep_empty",
        constant: float | None = None,
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        ratio_level: Literal["token", "sequence"] = "token",
        beta_kl: float = 0.0,
        zero_variance: Literal["keep", "mask", "resample"] = "keep",
        max_resample: int = 10,
        overlong: SoftOverlong | None = None,
        mask_truncated: bool = False,
        dual_clip: float | None = None,
        surrogate: Surrogate = "clip",
    ) -> None:
        check_choice("GRPO", "scale_rewards", scale_rewards, ("group", "mean", "none"))
        check_choice("GRPO", "zero_variance", zero_variance, ("keep", "mask", "resample"))
        masked: Literal["keep", "mask"] = "keep" if zero_variance == "keep" else "mask"
        clip = (epsilon, epsilon_high, ratio_level, beta_kl)
        super().__init__("none", normalize, constant, *clip, masked, mask_truncated, dual_clip, surrogate)
        if max_resample < 1:
            raise ConfigError(
                f"GRPO(max_resample={max_resample}): expected at least 1; zero_variance: mask never samples again."
            )
        self.scale_rewards, self.overlong = scale_rewards, overlong
        self.max_resample = max_resample if zero_variance == "resample" else 0

    @property
    def of_rewards(self) -> list[str]:
        """See :attr:`PolicyGradient.of_rewards`."""
        of_groups = ["zero_variance=resample"] if self.redraws else super().of_rewards
        return of_groups + ["overlong"] * (self.overlong is not None)

    @property
    def redraws(self) -> bool:
        """See :attr:`Objective.redraws`."""
        return self.max_resample > 0

    def redraw(self, trajectories: Sequence[Trajectory], attempt: int) -> list[int]:
        """Groups with equal rewards, until ``max_resample`` is reached.

        Broken episodes are not in the loss, so their rewards do not count; a group with fewer than two others has
        nothing to compare.
        """
        if attempt > self.max_resample:
            return []
        rewards: dict[int, list[float]] = {}
        for trajectory in trajectories:
            of_group = rewards.setdefault(trajectory.group, [])
            if evaluable(trajectory):
                of_group.append(trajectory.reward)
        return [group for group, got in rewards.items() if len(got) < 2 or max(got) - min(got) <= EQUAL_REWARDS]

    def shape(self, rewards: Tensor, trajectories: Sequence[Trajectory]) -> Tensor:
        """Rewards with the penalty on length added."""
        if self.overlong is None:
            return rewards
        lengths = torch.tensor([sum(len(turn.action_ids) for turn in t.turns) for t in trajectories])
        return rewards + soft_overlong_penalty(lengths, self.overlong.longest, self.overlong.buffer)

    def advantages(self, rewards: Tensor, groups: Tensor, reduce_sum: ReduceSum = lambda local: local) -> Tensor:
        """Reward minus group mean, divided by the group's standard deviation."""
        if self.scale_rewards == "none":
            return dr_grpo_advantages(rewards, groups)
        if self.scale_rewards == "mean":
            return maxrl_advantages(rewards, groups)
        return grpo_advantages(rewards, groups)


class RLOO(_GroupObjective):
    """REINFORCE with the mean reward of the other trajectories of the group as baseline.

    Args:
        normalize: How the loss is averaged, see ``hero_pl.losses.normalize``.
        constant: Tokens per trajectory, for ``seq_mean_token_sum_norm``.
    """

    def __init__(self, normalize: Normalize = "token_mean", constant: float | None = None) -> None:
        super().__init__("none", normalize, constant)

    def advantages(self, rewards: Tensor, groups: Tensor, reduce_sum: ReduceSum = lambda local: local) -> Tensor:
        """Reward minus the mean reward of the others."""
        return rloo_advantages(rewards, groups)
