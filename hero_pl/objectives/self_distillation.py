"""HERO: distill the policy from itself with a hindsight hint in its context (arXiv 2606.11559)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from torch import Tensor

from hero_pl.batch import PolicyTerm, ReduceSum, TokenizedBatch, tokenize
from hero_pl.errors import ConfigError, check_choice
from hero_pl.losses.base import DistillationLoss
from hero_pl.losses.gates import Gate, GateInputs
from hero_pl.losses.importance import ImportanceCorrection, TruncatedRatio, mismatch
from hero_pl.losses.jensen_shannon import JensenShannon
from hero_pl.losses.normalize import zero_loss
from hero_pl.losses.sampled_token import SampledToken
from hero_pl.losses.scores import Scores
from hero_pl.losses.summed_divergence import summed_divergence
from hero_pl.objectives.base import LossOutput, Normalize, Objective, Step
from hero_pl.objectives.negative_hints import negative_hints
from hero_pl.objectives.schedules import Blend, Schedule, check_blend, normalization_at, scheduled
from hero_pl.objectives.scope import LossScope, Scope
from hero_pl.parts import Part, load_parts, parts_state
from hero_pl.policy.base import Copies, Policy
from hero_pl.policy.branches import BranchScorer, Scoring
from hero_pl.policy.kept_rows import trunks_of
from hero_pl.policy.network import Trunk
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.reflection.statistics import reflection_statistics
from hero_pl.rollout.collect import Collector
from hero_pl.scalars import Scalar, largest, mean, share, total
from hero_pl.teacher.base import Teacher
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.probe import HintProbe
from hero_pl.teacher.scaffold import Scaffold, without_scaffold
from hero_pl.teacher.weights import LiveWeights, TeacherWeights
from hero_pl.types import Hint, Reflection, ScoreRow, Trajectory

LONG = 1000
"""Training turns after which runs with live weights were lost (README.md)."""

LENT_BYTES = 1 << 30
"""Largest size of the keys and values of reviewed episodes that wait for the teacher."""


class SelfDistillation(Objective):
    """Reflect on each episode, re-score its actions with the hint in the context, distill on the hinted turns.

    Args:
        reflector: Diagnoses turns; default: the policy itself.
        teacher: Renders the hints for the self-teacher.
        weights: Weights of the self-teacher.
        divergence: Distance per token.
        normalize: How the loss is averaged, see ``hero_pl.losses.normalize``.
        constant: Tokens per trajectory, for ``seq_mean_token_sum_norm``.
        blend: Transition to another normalization during training (TurnOPD).
        confidence_weights: Weight of a turn by the confidence of its diagnosis; numbers or schedules.
        gate: Optional weight per token.
        correction: Correction for rollouts of an older policy; default: ``TruncatedRatio`` for ``SampledToken``, whose
            gradient needs it, and none for divergences over the vocabulary, which do not depend on the sampled id.
        failures_only: Use only turns for which the reflector proposed another action (from HinT-SD).
        loss_scope: Sampled ids in the loss: ``all``, ``after_thinking``, or only those of the action
            (``tool_call_only``).
        skip_first_tokens: Number of sampled ids at the start of each turn to leave out of the loss.
        teacher_scoring: ``auto`` computes the conversation of a trajectory once for all its hints where the network
            supports it (``benchmarks/teacher_scoring.py``); the results are those of separate passes, up to rounding.
            ``tree_mask`` and ``prefix_cache`` select the method; ``separate`` scores each hinted turn with its whole
            context.
        scaffold: ``subtract`` removes the effect of the hint's wording without content from the teacher's logits
            (:mod:`hero_pl.teacher.scaffold`); three scored rows per hinted turn instead of one.
        teacher_temperature: Divides the teacher's logits, in addition to the sampling temperature; 1 as in the paper.
            Below 1 the teacher is sharper: for policies that rank the action of the hint first but give it a low
            probability. It makes the student sharper without any hint too, so compare with a control that has the same
            value.
        probe_turns: Number of hinted turns, the first of the run, on which two metrics are measured:
            ``teacher/hint_sensitivity``, the effect of the hint on the teacher compared with the hint of another turn,
            and ``teacher/hinted_logprob``, its log-probability of the reply that the hint asks for. 0 switches it off.
        probe_every: Training batches between two measurements.
    """

    preparing: ClassVar[str] = "reviewing"

    def __init__(
        self,
        reflector: Reflector | None = None,
        teacher: Teacher | None = None,
        weights: TeacherWeights | None = None,
        divergence: DistillationLoss | None = None,
        normalize: Normalize = "token_mean",
        constant: float | None = None,
        blend: Blend | None = None,
        confidence_weights: dict[str, float | Schedule] | None = None,
        gate: Gate | None = None,
        correction: ImportanceCorrection | None = None,
        failures_only: bool = False,
        loss_scope: Scope = "all",
        skip_first_tokens: int = 0,
        teacher_scoring: Scoring = "auto",
        scaffold: Scaffold = "keep",
        teacher_temperature: float = 1.0,
        probe_turns: int = 16,
        probe_every: int = 25,
    ) -> None:
        self.reflector = reflector or SelfReflector()
        self.teacher = teacher or HindsightTeacher()
        self.rewards_alone = self.teacher.needs_success
        self.weights = weights or LiveWeights()
        self.divergence = divergence or JensenShannon()
        self.normalize, self.constant, self.blend = normalize, constant, blend
        check_blend(normalize, blend, constant)
        self.confidence_weights = {"low": 1.0, "medium": 1.0, "high": 1.0, **(confidence_weights or {})}
        lowest = min(scheduled(weight).range()[0] for weight in self.confidence_weights.values())
        if set(self.confidence_weights) != {"low", "medium", "high"} or lowest < 0.0:
            raise ConfigError(
                f"confidence_weights={confidence_weights}: expected non-negative numbers for low, medium and high."
            )
        if correction is None and isinstance(self.divergence, SampledToken):
            correction = TruncatedRatio()
        self.gate, self.correction, self.failures_only = gate, correction, failures_only
        self.scope = LossScope(loss_scope, skip_first_tokens)
        check_choice(type(self).__name__, "teacher_scoring", teacher_scoring, get_args(Scoring))
        if teacher_scoring != "separate":
            self.weights.scorer = BranchScorer(teacher_scoring)
        check_choice(type(self).__name__, "scaffold", scaffold, get_args(Scaffold))
        self.subtracts = scaffold == "subtract"
        if self.subtracts and not isinstance(self.teacher, HindsightTeacher):
            raise ConfigError(
                "scaffold=subtract needs a teacher with a hint template (HindsightTeacher): hints of "
                f"{type(self.teacher).__name__} have no empty form. Set scaffold to keep."
            )
        if gate is not None:
            gate.check(self.divergence, self.subtracts)
        if not 0.0 < teacher_temperature < math.inf:
            raise ConfigError(f"teacher_temperature={teacher_temperature}: expected a positive number.")
        self.teacher_temperature = teacher_temperature
        self.probe = HintProbe(probe_turns, probe_every)
        self._seen = (0.0, 0.0)

    @property
    def tolerates_stale(self) -> bool:
        """True with a correction."""
        return self.correction is not None

    @property
    def continues(self) -> int:
        """Those of the reflector."""
        return self.reflector.continues

    def check(self, group_size: int) -> None:
        """Check that the teacher gets what its hints need: a group, or a reflector with diagnoses."""
        if group_size < self.teacher.needs_group:
            raise ConfigError(
                f"{type(self.teacher).__name__} needs group_size >= {self.teacher.needs_group}, given {group_size}: "
                "its hints come from other trajectories of the same task. Raise data.group_size."
            )
        self.teacher.check_reflector(self.reflector)

    def check_policy(self, policy: Policy) -> None:
        """Let reflector and teacher look at the policy that they are for."""
        self.reflector.check_policy(policy)
        self.teacher.check_policy(policy)

    def check_budget(self, turns: int) -> None:
        """Warn of live weights on a long budget."""
        if turns > LONG and isinstance(self.weights, LiveWeights):
            warnings.warn(
                f"turn_budget.max_turns={turns} with LiveWeights: a teacher that follows the student loses the reading "
                "of hints in long runs and takes the policy with it. "
                f"Beyond {LONG} turns use InitialWeights or configs/hero_robust.yaml, or watch collapse_guard.",
                stacklevel=2,
            )

    def attach_collector(self, collector: Collector) -> None:
        """Pass the collector to a teacher that plays the environment."""
        self.teacher.attach_collector(collector)

    @property
    def copies(self) -> Copies:
        """Those of the teacher's weights and of the reflector."""
        return {**self.reflector.copies, **self.weights.copies}

    def start(self, policy: Policy) -> None:
        """Start the reflector, and let the teacher's weights make their copy."""
        self.weights.start(policy)
        self.reflector.start(policy)

    def prepare(self, trajectories: Sequence[Trajectory], policy: Policy, reduce_sum: ReduceSum) -> Step:
        """Steps 2 and 3 of the algorithm in docs/method.md: reflect, render hints, build the batch of both sides."""
        return self.lay_out(trajectories, policy, reduce_sum)

    def lay_out(
        self,
        trajectories: Sequence[Trajectory],
        policy: Policy,
        reduce_sum: ReduceSum,
        policy_term: PolicyTerm | None = None,
    ) -> Step:
        """:meth:`prepare`, optionally with a policy-gradient term on the same rollouts."""
        dialect = policy.dialect
        reflections, trunks = self._reviewed(trajectories, policy)
        self.teacher.settle(trajectories, reflections, policy)
        hints = self.teacher.advise(trajectories, reflections, dialect)
        levels = {name: scheduled(weight).at(policy.version) for name, weight in self.confidence_weights.items()}
        batch = tokenize(
            trajectories,
            hints,
            dialect,
            normalization_at(self.normalize, self.blend, policy.version),
            weight=lambda i, turn, hint: self._weight(hint, levels),
            constant=self.constant,
            scope=lambda turn: self.scope(turn, dialect),
            negative_hints=negative_hints(trajectories, hints, self.gate.negative_hints if self.gate else 0),
            with_scaffold=self.subtracts,
            policy_term=policy_term,
            reduce_sum=reduce_sum,
            device=_device(policy),
        )
        metrics = {f"reflection/{name}": value for name, value in reflection_statistics(reflections).items()}
        metrics |= self._scheduled(levels, policy.version)
        metrics |= {f"teacher/{name}": n for name, n in (self.teacher.metrics() | self.weights.metrics()).items()}
        metrics["hero/hinted_turns"] = share(len(batch.teacher), sum(len(t.turns) for t in trajectories))
        metrics["hero/empty_batches"] = mean(not batch.teacher_mask.any(), 1)
        scored = [row for rows in (batch.teacher, *batch.negative_rows, *batch.scaffold_rows) for row in rows]
        metrics["teacher/tokens"] = total(self.weights.passes * sum(len(row.ids) for row in scored))
        if self.weights.scorer is not None:
            scorer, of_weights = self.weights.scorer, self.weights.copy
            rewritten = len(batch.student) - len({row.trajectory for row in batch.student})
            metrics |= scorer.rewritten(rewritten)
            shares = scorer.shares(policy, batch.teacher, of_weights)
            borrows = shares and self._borrows(policy)
            batch = replace(batch, teacher_shares=shares, teacher_borrows=borrows, teacher_trunks=trunks)
        metrics |= self.probe.step(trajectories, hints, policy, self.weights)
        self._seen = _seen(trajectories, reduce_sum)
        return Step(batch, metrics, reflections, _scored_hints(hints, batch))

    def _reviewed(
        self, trajectories: Sequence[Trajectory], policy: Policy
    ) -> tuple[list[Reflection], tuple[Trunk, ...]]:
        """Reviews, and the episodes that a reviewer with the teacher's frozen weights has run for both."""
        takes = self.weights.takes(policy, self.reflector.lends)
        sampler = policy.sampler
        try:
            with sampler.keeping(len(trajectories), LENT_BYTES) if takes else nullcontext():
                reflections = self.reflector.reflect(trajectories, policy)
            rows = sampler.kept_under(policy, self.weights.copy) if takes else ()
            return reflections, trunks_of(rows, trajectories)
        finally:
            sampler.forget()  # the gradient step needs the memory

    def _weight(self, hint: Hint | None, levels: Mapping[str, float]) -> float:
        if hint is None or (self.failures_only and not hint.is_failure):
            return 0.0
        return levels[hint.confidence]

    def _scheduled(self, levels: Mapping[str, float], version: int) -> dict[str, Scalar]:
        """Current values of scheduled settings."""
        moving = [name for name, weight in self.confidence_weights.items() if isinstance(weight, Schedule)]
        values = {f"confidence_{name}": levels[name] for name in moving}
        if self.blend is not None:
            values["blend"] = self.blend.share.at(version)
        return {f"schedule/{name}": largest(value) for name, value in values.items()}

    def loss(self, policy: Policy, micro: TokenizedBatch) -> LossOutput:
        """Step 4: divergence per token of the sampled ids, without gradient for the teacher."""
        with self.weights.beside(policy):
            return self.distil(policy, micro.tempered(policy.scores(micro.student)), micro)

    def distil(self, policy: Policy, student: Scores, micro: TokenizedBatch) -> LossOutput:
        """The loss from the student's scores at the sampling temperature; the teacher scores all ids of ``micro``."""
        if len(micro) == 0:
            return LossOutput(zero_loss(student.values))
        before = self.weights.forwarded
        ids, teacher = micro.action_ids, self.teacher_scores(policy, micro)
        weighing = self._weighing(policy, micro)
        result = summed_divergence(self.divergence, student, teacher, micro.coefficient, ids, weighing)
        q, p, per_token = result.student_log_probs, result.teacher_log_probs, result.per_token
        metrics = {
            "teacher/divergence": mean(per_token.mean(), per_token.numel()),
            "teacher/endorsement": mean((p - q).mean(), per_token.numel()),
            **self.divergence.diagnostics,
            **mismatch(q, micro.rollout_logprobs),
            **self.forwarded_since(before),
        }
        return LossOutput(result.loss, metrics, per_token, q, p)

    def _borrows(self, policy: Policy) -> bool:
        """Whether the teacher runs on the keys and values of the student's pass."""
        return self.weights.borrows(policy)

    def forwarded_since(self, before: int | None) -> dict[str, Scalar]:
        """Tokens that the teacher has run since ``before``, if they are counted."""
        now = self.weights.forwarded
        return {} if now is None or before is None else {"teacher/forwarded_tokens": total(now - before)}

    def _weighing(self, policy: Policy, micro: TokenizedBatch) -> _Weighing | None:
        """Gate and correction, if there are any."""
        if self.gate is None and self.correction is None:
            return None
        ids = micro.action_ids
        hinted = (self._tempered(micro, self._scores(policy, rows, micro)) for rows in micro.negative_rows)
        others = [scores.of_actions(ids) for scores in hinted]
        return _Weighing(self.gate, self.correction, micro, torch.stack(others) if others else None)

    def teacher_scores(self, policy: Policy, micro: TokenizedBatch) -> Scores:
        """The teacher's scores of the tokens of ``micro``, at its temperature, without gradient."""
        views = [self._scores(policy, rows, micro) for rows in (micro.teacher, *micro.scaffold_rows)]
        return self._tempered(micro, without_scaffold(*views) if self.subtracts else views[0]).detach()

    def _scores(self, policy: Policy, rows: Sequence[ScoreRow], micro: TokenizedBatch) -> Scores:
        """Scores of the teacher's weights, on what these have run before, if there is any."""
        taken = (micro.teacher_trunks,) if micro.teacher_trunks else ()
        return self.weights.scores(policy, rows, *taken)

    def _tempered(self, micro: TokenizedBatch, scores: Scores) -> Scores:
        """Scores of the teacher at its temperature."""
        return micro.tempered(scores, self.teacher_temperature)

    def after_step(self, policy: Policy) -> None:
        """Update the teacher's weights by their rule."""
        with torch.no_grad():
            self.weights.after_step(policy, *self._seen)

    def state_dict(self) -> dict[str, Any]:
        """State of the parts."""
        return parts_state(self._parts())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; a part of another class starts afresh, with a warning."""
        load_parts(self._parts(), state)

    def roll_back(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the teacher's weights; the reflector keeps its counters and random state."""
        load_parts({"weights": self.weights}, state)

    def _parts(self) -> dict[str, Part]:
        """What has a state and can be exchanged."""
        return {"reflector": self.reflector, "teacher": self.teacher, "weights": self.weights, "probe": self.probe}


@dataclass(frozen=True, slots=True)
class _Weighing:
    """Weights of the tokens of a micro-batch by gate and correction."""

    gate: Gate | None
    correction: ImportanceCorrection | None
    micro: TokenizedBatch
    wrong: Tensor | None
    """See :attr:`GateInputs.wrong_hint_log_probs`."""

    @property
    def by_token(self) -> bool:
        """Whether the weights of both depend on single tokens only."""
        return all(one is None or one.by_token for one in (self.gate, self.correction))

    def weigh(self, student: Scores, teacher: Scores, divergence: Callable[[], Tensor], part: slice) -> Tensor:
        """See :meth:`hero_pl.losses.summed_divergence.Weighing.weigh`."""
        micro, ids = self.micro, self.micro.action_ids[part]
        factor = torch.ones_like(micro.coefficient[part])
        if self.gate is not None:
            wrong = None if self.wrong is None else self.wrong[:, part]
            places = (micro.turn[part], divergence, wrong, micro.trajectory[part])
            factor = factor * self.gate(GateInputs(student, teacher, ids, *places))
        if self.correction is not None:
            recorded = micro.rollout_logprobs[part]
            factor = factor * self.correction(student.of_actions(ids), recorded, micro.trajectory[part])
        return factor.detach()


def _scored_hints(hints: Sequence[Sequence[Hint | None]], batch: TokenizedBatch) -> list[list[Hint | None]]:
    """The hints of the turns that the teacher scores; those that were too long or have weight 0 are left out."""
    scored = set(
        zip(batch.trajectory[batch.teacher_mask].tolist(), batch.turn[batch.teacher_mask].tolist(), strict=True)
    )
    places = {(i, batch.turn_numbers[turn]) for i, turn in scored}
    return [[hint if (i, j) in places else None for j, hint in enumerate(row, 1)] for i, row in enumerate(hints)]


def _seen(trajectories: Sequence[Trajectory], reduce_sum: ReduceSum) -> tuple[float, float]:
    """Mean reward and 95th percentile of action lengths over all ranks, so that teachers are equal on all ranks."""
    lengths = [len(turn.action_ids) for trajectory in trajectories for turn in trajectory.turns]
    length = float(np.percentile(lengths, 95)) if lengths else 0.0
    count = len(trajectories)
    local = torch.tensor([sum(t.reward for t in trajectories), count * length, count], dtype=torch.float64)
    reward, length, count = reduce_sum(local).tolist()
    return reward / max(count, 1.0), length / max(count, 1.0)


def _device(policy: Policy) -> torch.device:
    return next(policy.parameters()).device
