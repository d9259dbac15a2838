"""Weights of the self-teacher: live, initial, averaged or copied."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from hero_pl.errors import ConfigError
from hero_pl.losses.scores import Scores
from hero_pl.policy.base import Copies, Policy
from hero_pl.policy.branches import BranchScorer
from hero_pl.policy.network import Trunk
from hero_pl.scalars import Scalar, largest
from hero_pl.teacher.ema import ema_update_, trust_region_log_probs
from hero_pl.types import ScoreRow


class TeacherWeights(ABC):  # noqa: B024
    """The teacher's weights; they get no gradient and are not in the optimizer."""

    copy: str = "live"
    """Name of the weights: ``live`` or a frozen copy of the policy."""
    scorer: BranchScorer | None = None
    """Scores rows with a common prefix together; ``None`` scores each row separately."""
    passes: int = 1
    """Number of forward passes per scored row."""

    @property
    def reads_live(self) -> bool:
        """Whether the current weights of the student take part."""
        return self.copy == "live"

    def borrows(self, policy: Policy) -> bool:
        """Whether rows run on the keys and values of the student's pass, see :meth:`beside`."""
        return self.reads_live and self.scorer is not None and self.scorer.borrows(policy)

    def beside(self, policy: Policy) -> AbstractContextManager[None]:
        """Context in which the student is scored, and then the teacher: live weights run no conversation twice."""
        return policy.need_network("the teacher").keeping() if self.borrows(policy) else nullcontext()

    @property
    def forwarded(self) -> int | None:
        """Tokens that were run so far for scores; ``None`` if each row is scored separately."""
        return None if self.scorer is None else self.scorer.forwarded

    @property
    def copies(self) -> Copies:
        """The frozen copy, if there is one."""
        return {} if self.copy == "live" else {self.copy: None}

    def start(self, policy: Policy) -> None:
        """Called once when training starts, before the first step; keeps the copy."""
        policy.keep_all(self.copies)

    def takes(self, policy: Policy, weights: str | None) -> bool:
        """Whether rows run on the keys and values of conversations that were sampled under frozen weights.

        Args:
            policy: The policy.
            weights: Name of the weights; ``None`` if there are no such conversations.
        """
        same = weights is not None and weights == self.copy
        return same and self.scorer is not None and self.scorer.takes(policy, self.copy)

    def scores(self, policy: Policy, rows: Sequence[ScoreRow], trunks: Sequence[Trunk] = ()) -> Scores:
        """Scores of each action token with these weights, in evaluation mode, without gradient.

        Args:
            policy: The policy.
            rows: To score.
            trunks: Conversations that these weights have run before, see :meth:`takes`.
        """
        with policy.sampling():
            return self._scores(policy, rows, self.copy, trunks).detach()

    def _scores(self, policy: Policy, rows: Sequence[ScoreRow], weights: str, trunks: Sequence[Trunk] = ()) -> Scores:
        if self.scorer is not None:
            return self.scorer.scores(policy, rows, weights, trunks)
        return policy.scores(rows, weights)

    def after_step(self, policy: Policy, reward: float, action_length_p95: float) -> None:  # noqa: B027
        """Called after each successful optimizer step.

        Args:
            policy: The policy, with its new weights.
            reward: Mean reward of the training batch.
            action_length_p95: 95th percentile of its action lengths, in tokens.
        """

    def metrics(self) -> dict[str, Scalar]:
        """Metrics of the updates of the teacher so far."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State that determines the next update, except the copies (the policy saves those)."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore :meth:`state_dict`."""


class LiveWeights(TeacherWeights):
    """The current weights of the student, without gradient (the paper's choice; degrades in long runs)."""


class InitialWeights(TeacherWeights):
    """The weights at the start of training; with LoRA they are the model without the adapter and need no copy."""

    copy = "initial"


class EMAWeights(TeacherWeights):
    """Exponential moving average of the student, kept in float32.

    Args:
        update_rate: Weight of the *student* in each update: 0 is frozen, 1 copies (called alpha in TRL and SDPO).
    """

    copy = "ema"

    def __init__(self, update_rate: float = 0.05) -> None:
        if not 0.0 <= update_rate <= 1.0:
            raise ConfigError(f"EMAWeights(update_rate={update_rate}): expected the student's weight, in [0, 1].")
        self.update_rate = update_rate

    @property
    def copies(self) -> Copies:
        """A copy in float32, because in bfloat16 small updates would be lost."""
        return {self.copy: torch.float32}

    def after_step(self, policy: Policy, reward: float, action_length_p95: float) -> None:
        """Update the average; buffers are copied."""
        network = policy.need_network(type(self).__name__)
        teacher = network.copies[self.copy]
        pairs = zip(teacher.parameters(), network.model.parameters(), strict=True)
        averaged = [(average, live) for average, live in pairs if average is not live]  # weights without training
        ema_update_([average for average, _ in averaged], [live for _, live in averaged], self.update_rate)
        for mine, theirs in zip(teacher.buffers(), network.model.buffers(), strict=True):
            mine.copy_(theirs)


class PeriodicWeights(TeacherWeights):
    """A copy of the student, updated every ``sync_every`` optimizer steps.

    Args:
        sync_every: Optimizer steps between two copies.
    """

    copy = "periodic"

    def __init__(self, sync_every: int = 75) -> None:
        if sync_every < 1:
            raise ConfigError(f"{type(self).__name__}(sync_every={sync_every}): expected at least 1 optimizer step.")
        self.sync_every = sync_every
        self.steps = 0

    def after_step(self, policy: Policy, reward: float, action_length_p95: float) -> None:
        """Copy when the period is over."""
        self.steps += 1
        if self.steps % self.sync_every == 0 and self.may_refresh(reward, action_length_p95):
            self.refresh(policy)

    def may_refresh(self, reward: float, action_length_p95: float) -> bool:
        """Always."""
        return True

    def refresh(self, policy: Policy) -> None:
        """Copy the student now."""
        policy.need_network(type(self).__name__).refresh(self.copy)

    def state_dict(self) -> dict[str, Any]:
        """Step counter."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the step counter."""
        self.steps = int(state["steps"])


class GatedWeights(PeriodicWeights):
    """Periodic updates, but only if the smoothed reward rose and actions did not become longer (arXiv 2606.03532).

    Args:
        sync_every: Optimizer steps between two checks.
        length_guard: The 95th percentile of action lengths may grow by this factor since the last copy.
        smoothing: Weight of the newest batch in the smoothed reward.
    """

    copy = "gated"

    def __init__(self, sync_every: int = 75, length_guard: float = 1.5, smoothing: float = 0.1) -> None:
        super().__init__(sync_every)
        if length_guard < 1.0 or not 0.0 < smoothing <= 1.0:
            raise ConfigError(
                f"GatedWeights(length_guard={length_guard}, smoothing={smoothing}): expected at least 1, and in (0, 1]."
            )
        self.length_guard, self.smoothing = length_guard, smoothing
        self.reward: float | None = None
        self.reward_at_copy: float | None = None
        self.length_at_copy: float | None = None
        self.refused = 0
        """Number of checks so far without an update."""

    def after_step(self, policy: Policy, reward: float, action_length_p95: float) -> None:
        """Smooth the reward; check if due."""
        self.reward = reward if self.reward is None else self.reward + self.smoothing * (reward - self.reward)
        if self.reward_at_copy is None:
            self.reward_at_copy, self.length_at_copy = reward, action_length_p95
        super().after_step(policy, reward, action_length_p95)

    def may_refresh(self, reward: float, action_length_p95: float) -> bool:
        """Whether the reward rose and lengths did not, since the last copy."""
        assert self.reward is not None
        assert self.reward_at_copy is not None
        assert self.length_at_copy is not None
        good = self.reward > self.reward_at_copy and action_length_p95 <= self.length_guard * self.length_at_copy
        if good:
            self.reward_at_copy, self.length_at_copy = self.reward, action_length_p95
        else:
            self.refused += 1
        return good

    def metrics(self) -> dict[str, Scalar]:
        """Number of refused updates so far."""
        return {"refused_refreshes": largest(self.refused)}

    def state_dict(self) -> dict[str, Any]:
        """Counters and the values at the last copy."""
        names = ("reward", "reward_at_copy", "length_at_copy", "refused")
        return {**super().state_dict(), **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        for name in ("reward", "reward_at_copy", "length_at_copy", "refused"):
            setattr(self, name, state[name])


class TrustRegionWeights(TeacherWeights):
    """Geometric mix of initial and live weights: logits ``(1 - mix) * initial + mix * live`` (SDPO's option).

    Args:
        mix: Weight of the live logits.
    """

    copy = "initial"
    passes = 2
    reads_live = True

    def __init__(self, mix: float = 0.05) -> None:
        if not 0.0 <= mix <= 1.0:
            raise ConfigError(f"TrustRegionWeights(mix={mix}): expected a weight in [0, 1].")
        self.mix = mix

    def scores(self, policy: Policy, rows: Sequence[ScoreRow], trunks: Sequence[Trunk] = ()) -> Scores:
        """Interpolated logits, as log-probabilities."""
        with policy.sampling():
            initial = self._scores(policy, rows, self.copy, trunks).logits()
            live = self._scores(policy, rows, "live").logits()
            return Scores(trust_region_log_probs(initial, live, self.mix))
