"""Policy gradient plus distillation (SDPO), and distillation as credit for a policy gradient."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from hero_pl.batch import PolicyTerm, ReduceSum, TokenizedBatch, tokenize
from hero_pl.errors import ConfigError
from hero_pl.losses.credit import (
    belief_factors,
    gap_magnitudes,
    reweighted_advantages,
    rlsd_advantages,
    turn_credits,
)
from hero_pl.losses.mix import MixMode, mix_losses, mix_weights
from hero_pl.losses.normalize import zero_loss
from hero_pl.losses.scores import Scores
from hero_pl.objectives.base import LossOutput, Step
from hero_pl.objectives.policy_gradient import PolicyGradient
from hero_pl.objectives.schedules import Schedule, scheduled
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.parts import Part, load_parts
from hero_pl.policy.base import Copies, Policy
from hero_pl.scalars import Scalar, largest, mean, total
from hero_pl.types import Hint, Trajectory

Rule: TypeAlias = Literal["advantage_reweight", "rlsd", "gap_magnitude", "turn_belief", "bayes_turn"]


UNTAUGHT = 8
"""Batches in a row without a hint after which a warning says that the policy gradient learns alone."""


class _WithPolicyGradient(SelfDistillation):
    """HERO with a policy gradient on the same rollouts."""

    def __init__(self, policy_gradient: PolicyGradient | None, **distillation: Any) -> None:
        super().__init__(**distillation)
        self.policy_gradient = policy_gradient or PolicyGradient()
        self._untaught = 0

    def _tell_untaught(self, step: Step) -> None:
        """Warn of batches without a hint, which are steps here."""
        self._untaught = 0 if step.batch.teacher else self._untaught + 1
        if self._untaught == UNTAUGHT:
            issues = {name: float(n) for name, n in step.metrics.items() if "/issues/" in name}
            warnings.warn(
                f"No turn of {UNTAUGHT} batches in a row had a hint: only the policy gradient learns. What the latest "
                f"reviews lacked: {issues or 'nothing is known'}. See docs/reviews.md, or leave the distillation out.",
                stacklevel=2,
            )

    def check(self, group_size: int) -> None:
        """Check both parts."""
        super().check(group_size)
        self.policy_gradient.check(group_size)

    @property
    def copies(self) -> Copies:
        """Those of both parts."""
        return {**self.policy_gradient.copies, **super().copies}

    def start(self, policy: Policy) -> None:
        """Start both parts."""
        super().start(policy)
        self.policy_gradient.start(policy)

    @property
    def redraws(self) -> bool:
        """See :attr:`Objective.redraws`."""
        return self.policy_gradient.redraws

    def redraw(self, trajectories: Sequence[Trajectory], attempt: int) -> list[int]:
        """Groups without a signal for the policy gradient."""
        return self.policy_gradient.redraw(trajectories, attempt)

    def roll_back(self, state: Mapping[str, Any]) -> None:
        """Also restore the baseline of the policy gradient, which has followed the rewards of the collapse."""
        super().roll_back(state)
        load_parts({"policy_gradient": self.policy_gradient}, state)

    def _parts(self) -> dict[str, Part]:
        """Those of the distillation, and the policy gradient."""
        return {**super()._parts(), "policy_gradient": self.policy_gradient}


class Mixed(_WithPolicyGradient):
    """Policy gradient and distillation in one loss, each with its own mask and its own denominator (SDPO).

    The policy gradient covers every turn, the distillation only hinted turns; a gate on one does not rescale the other.
    The student is scored once for both.

    Args:
        policy_gradient: ``PolicyGradient`` (default, works with single trajectories), ``GRPO`` or ``RLOO``.
        distillation_weight: Weight ``w`` of the distillation, a number or a schedule. At 0, or after a schedule has
            ended there, reflection and the teacher's forward pass are skipped.
        mix: ``convex`` is ``(1 - w) L_policy + w L_distil``, ``additive`` is ``L_policy + w L_distil``.
        distillation: Settings of the distillation, see ``SelfDistillation``.
    """

    def __init__(
        self,
        policy_gradient: PolicyGradient | None = None,
        distillation_weight: float | Schedule = 0.7,
        mix: MixMode = "convex",
        **distillation: Any,
    ) -> None:
        super().__init__(policy_gradient, **distillation)
        for end in scheduled(distillation_weight).range():
            mix_weights(end, mix)
        self.distillation_weight, self.mix = distillation_weight, mix

    def prepare(self, trajectories: Sequence[Trajectory], policy: Policy, reduce_sum: ReduceSum) -> Step:
        """Reflect and add hints as HERO does, and compute the advantage of every turn."""
        term, metrics = self.policy_gradient.term(trajectories, reduce_sum)
        weight = self.distillation_weight
        if scheduled(weight).has_ended_at_zero(policy.version):
            step = Step(self._without_teacher(trajectories, policy, reduce_sum, term))
        else:
            step = self.lay_out(trajectories, policy, reduce_sum, term)
            self._tell_untaught(step)
        if isinstance(weight, Schedule):
            step.metrics["schedule/distillation_weight"] = largest(weight.at(policy.version))
        step.metrics |= metrics
        return step

    def _without_teacher(
        self, trajectories: Sequence[Trajectory], policy: Policy, reduce_sum: ReduceSum, term: PolicyTerm
    ) -> TokenizedBatch:
        unhinted: list[list[Hint | None]] = [[None] * len(trajectory.turns) for trajectory in trajectories]
        device = next(policy.parameters()).device
        return tokenize(trajectories, unhinted, policy.dialect, policy_term=term, reduce_sum=reduce_sum, device=device)

    def loss(self, policy: Policy, micro: TokenizedBatch) -> LossOutput:
        """Both losses from one forward pass of the student."""
        with self.weights.beside(policy):
            return self._both(policy, micro.tempered(policy.scores(micro.student)), micro)

    def _both(self, policy: Policy, student: Scores, micro: TokenizedBatch) -> LossOutput:
        if len(micro) == 0:
            return LossOutput(zero_loss(student.values))
        of_policy = self.policy_gradient.surrogate_loss(policy, student, micro, micro.policy_coefficient)
        distil = self.distil(policy, student.at(micro.teacher_mask), micro.teacher_scored())
        return LossOutput(
            mix_losses(of_policy.loss, distil.loss, scheduled(self.distillation_weight).at(policy.version), self.mix),
            {**distil.metrics, **of_policy.metrics},
            _at(micro.teacher_mask, distil.per_token),
            of_policy.student_logprobs,
            _at(micro.teacher_mask, distil.teacher_logprobs),
        )


class Credit(_WithPolicyGradient):
    """Policy gradient whose advantages are changed by the hinted teacher; there is no distillation loss.

    The *gap* of a token is the teacher's log-probability minus the recorded one. The settings of the distillation loss
    have no effect: divergence and normalize are ignored (``policy_gradient`` has its own), gate, blend, correction,
    constant and confidence weights other than 0 and 1 are refused. A weight of 0 takes the hint away.

    Args:
        rule: ``advantage_reweight`` multiplies each advantage by ``1 + strength * tanh`` of the gap (SGCD). ``rlsd``
            multiplies it by the clipped ratio of teacher and student (RLSD). ``gap_magnitude`` uses the sign of the
            advantage and the magnitude of the gap (our own). ``turn_belief`` multiplies it by a factor from the change
            of the success probability (AgentOPSD). ``bayes_turn`` passes the sum of the gaps of each turn to the
            estimator instead of a reward (PBSD); settings of the estimator that look at rewards are refused.
        policy_gradient: The estimator: ``PolicyGradient`` (default), ``GRPO`` or ``RLOO``.
        strength: For ``advantage_reweight``: largest relative change, in [0, 1). For ``rlsd`` and ``turn_belief``:
            weight of the teacher's factor, in [0, 1].
        scale: For ``advantage_reweight``: gap, in nats, that counts as large.
        cap: For ``gap_magnitude``: largest magnitude, in nats.
        band: For ``rlsd`` and ``turn_belief``: largest distance of the teacher's factor from 1, in [0, 1).
        decay: For ``turn_belief``: fraction of the evidence that remains after one turn, in (0, 1].
        tokens_per_teacher_batch: Number of tokens that the teacher scores in one pass.
        distillation: Reflector, teacher, weights and scope, see ``SelfDistillation``.
    """

    def __init__(
        self,
        rule: Rule = "advantage_reweight",
        policy_gradient: PolicyGradient | None = None,
        strength: float = 0.5,
        scale: float = 1.0,
        cap: float = 2.0,
        band: float = 0.2,
        decay: float = 0.95,
        tokens_per_teacher_batch: int = 16384,
        **distillation: Any,
    ) -> None:
        super().__init__(policy_gradient, **distillation)
        if rule not in get_args(Rule):
            raise ConfigError(f"Credit(rule={rule!r}): expected one of {', '.join(get_args(Rule))}.")
        if self.gate or self.blend or distillation.get("correction") is not None:
            raise ConfigError(
                "Credit has no distillation loss, so gate, blend and correction have no effect. Remove them."
            )
        if self.constant is not None or not all(one in (0.0, 1.0) for one in self.confidence_weights.values()):
            raise ConfigError(
                f"Credit has no distillation loss, so constant={self.constant} and confidence_weights="
                f"{self.confidence_weights} would have no effect, except weights of 0. Remove constant (that of "
                "policy_gradient counts), and use confidence weights of 0 or 1."
            )
        ignored = self.policy_gradient.of_rewards if rule == "bayes_turn" else []
        if ignored:
            raise ConfigError(
                f"Credit(rule='bayes_turn') passes credits to the estimator instead of rewards, so "
                f"{' and '.join(ignored)} of {type(self.policy_gradient).__name__} would have no effect. Remove this, "
                "or use another rule."
            )
        nothing = torch.zeros(0)  # the functions check their arguments
        reweighted_advantages(nothing, nothing, strength if rule == "advantage_reweight" else 0.0, scale)
        gap_magnitudes(nothing, nothing, cap)
        belief_factors(nothing, nothing, nothing, nothing, strength, band, decay)
        self.rule, self.strength, self.scale, self.cap = rule, strength, scale, cap
        self.band, self.decay = band, decay
        self.tokens_per_teacher_batch = tokens_per_teacher_batch

    @property
    def tolerates_stale(self) -> bool:
        """True: the policy gradient's ratio is the correction."""
        return True

    def prepare(self, trajectories: Sequence[Trajectory], policy: Policy, reduce_sum: ReduceSum) -> Step:
        """Score with the hinted teacher and compute advantages from gaps; other turns keep theirs or are masked."""
        estimator = self.policy_gradient
        if self.rule == "bayes_turn":  # the estimator sees credits instead of rewards
            weight = estimator.uncut(trajectories)
            term = PolicyTerm([0.0] * len(weight), weight.tolist(), estimator.normalize, estimator.constant)
            metrics: dict[str, Scalar] = {"rollout/masked_episodes": total((weight == 0.0).sum())}
        else:
            term, metrics = estimator.term(trajectories, reduce_sum)
        term = replace(term, teacher_only=self.rule in ("gap_magnitude", "bayes_turn"))
        step = self.lay_out(trajectories, policy, reduce_sum, term)
        self._tell_untaught(step)
        batch = step.batch
        before = self.weights.forwarded
        gap = self._gaps(policy, batch)
        step.metrics |= self.forwarded_since(before)
        advantage = self._advantages(trajectories, batch, gap, reduce_sum)
        step.batch = replace(
            batch,
            teacher=(),
            negative_rows=(),
            scaffold_rows=(),
            teacher_trunks=(),
            advantage=advantage,
            coefficient=batch.policy_coefficient,
        )
        step.metrics |= metrics
        taught = int(batch.teacher_mask.sum())
        if term.teacher_only and not taught:  # no token counts: without any, a batch that teaches nothing is no step
            step.batch = step.batch.of([])
        step.metrics["credit/gap_mean"] = mean(gap[batch.teacher_mask].mean(), taught)
        step.metrics["credit/advantage_abs"] = mean(advantage[batch.teacher_mask].abs().mean(), taught)
        return step

    def loss(self, policy: Policy, micro: TokenizedBatch) -> LossOutput:
        """Loss of the policy gradient."""
        return self.policy_gradient.loss(policy, micro)

    def _borrows(self, policy: Policy) -> bool:
        """No: the teacher has its say before the student is scored."""
        return False

    def _gaps(self, policy: Policy, batch: TokenizedBatch) -> Tensor:
        """``(N,)`` in nats, 0 where there is no hint."""
        gap = torch.zeros_like(batch.rollout_logprobs)
        gaps = []
        for micro in batch.split(self.tokens_per_teacher_batch):
            if micro.teacher:
                hinted = micro.teacher_scored()
                log_p = self.teacher_scores(policy, micro).of_actions(hinted.action_ids)
                gaps.append(log_p - hinted.rollout_logprobs)
        if gaps:
            gap[batch.teacher_mask] = torch.cat(gaps).detach()
        return gap

    def _advantages(
        self, trajectories: Sequence[Trajectory], batch: TokenizedBatch, gap: Tensor, reduce_sum: ReduceSum
    ) -> Tensor:
        if self.rule == "advantage_reweight":
            return reweighted_advantages(batch.advantage, gap, self.strength, self.scale)
        if self.rule == "rlsd":
            return rlsd_advantages(batch.advantage, gap, self.strength, self.band)
        if self.rule == "gap_magnitude":
            return gap_magnitudes(batch.advantage, gap, self.cap)
        advantage = torch.zeros_like(gap)
        numbers, credits, index = turn_credits(gap[batch.teacher_mask], batch.turn[batch.teacher_mask])
        owner_of = dict(zip(batch.turn.tolist(), batch.trajectory.tolist(), strict=True))
        owners = [owner_of[number] for number in numbers.tolist()]
        if self.rule == "turn_belief":
            factor = torch.ones(len(set(batch.turn.tolist())), dtype=torch.float64)
            factor[numbers.cpu()] = self._belief_factors(trajectories, batch, numbers, credits.cpu().double(), owners)
            return batch.advantage * factor.to(gap)[batch.turn]
        groups = torch.tensor([trajectories[owner].group for owner in owners], dtype=torch.long)
        per_turn = self.policy_gradient.advantages(credits.cpu().double(), groups, reduce_sum)
        advantage[batch.teacher_mask] = per_turn.to(gap)[index]
        return advantage

    def _belief_factors(
        self,
        trajectories: Sequence[Trajectory],
        batch: TokenizedBatch,
        numbers: Tensor,
        evidence: Tensor,
        owners: list[int],
    ) -> Tensor:
        """``(hinted turns,)``; a turn without a hint gives no evidence and is skipped."""
        signs = dict(zip(batch.trajectory.tolist(), batch.advantage.sign().tolist(), strict=True))
        rewards: dict[int, list[float]] = {}
        for trajectory in trajectories:
            rewards.setdefault(trajectory.group, []).append(trajectory.reward)
        rates = [sum(rewards[trajectories[owner].group]) / len(rewards[trajectories[owner].group]) for owner in owners]
        sign = torch.tensor([signs[owner] for owner in owners], dtype=torch.float64)
        prior = torch.tensor(rates, dtype=torch.float64)
        return belief_factors(sign, evidence, torch.tensor(owners), prior, self.strength, self.band, self.decay)


def _at(teacher_mask: Tensor, values: Tensor | None) -> Tensor:
    """Values of the tokens with a teacher, NaN elsewhere."""
    spread = torch.full(teacher_mask.shape, torch.nan, dtype=torch.float32, device=teacher_mask.device)
    if values is not None:
        spread[teacher_mask] = values.to(spread.dtype)
    return spread
