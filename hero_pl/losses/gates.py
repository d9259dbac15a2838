"""Gates: detached per-token weights in [0, 1] for the distillation loss.

A gate scales numerators only; the token still counts in the denominators. ``StepDivergence`` uses all tokens of a turn
and ``HighEntropy`` all tokens of a trajectory, so these are never split over micro-batches, and cost one more output
projection; the weights of the others are found while the logits of their tokens exist.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from hero_pl.errors import ConfigError
from hero_pl.losses.policy_gradient import mean_over
from hero_pl.losses.scores import Scores

if TYPE_CHECKING:
    from hero_pl.losses.base import DistillationLoss


@dataclass(frozen=True, slots=True)
class GateInputs:
    """Inputs of a gate, flat over action tokens."""

    student: Scores
    """Of N tokens, at the sampling temperature like all that follows."""
    teacher: Scores
    """Of the same tokens: the teacher with the true hint."""
    action_ids: Tensor
    """``(N,)`` sampled ids."""
    turn: Tensor
    """``(N,)`` turn of each token, unique over all trajectories of the call."""
    divergence: Callable[[], Tensor]
    """Returns the divergence per token, ``(N,)``."""
    wrong_hint_log_probs: Tensor | None = None
    """``(K, N)`` log-probabilities of the sampled ids under the teacher with each of K wrong hints."""
    trajectory: Tensor | None = None
    """``(N,)`` trajectory of each token; ``None``: all of one."""


class Gate(nn.Module, ABC):
    """Weight per token, computed from both sides, without gradient."""

    negative_hints: int = 0
    """Number of hints of other turns that the teacher also has to score."""
    by_token: bool = False
    """The weight of a token depends on that token alone, so that a call may have some tokens of a trajectory only.
    Otherwise all tokens are projected once more."""

    def check(self, loss: DistillationLoss, subtracts: bool) -> None:
        """Refuse settings of the loss with which the gate would mean something else.

        Args:
            loss: The loss that is weighted.
            subtracts: Whether the effect of the empty hint is taken out of the teacher.

        Raises:
            ConfigError: The message says what to change.
        """

    @abstractmethod
    def forward(self, inputs: GateInputs) -> Tensor:
        """Weight in [0, 1] per token, ``(N,)``, detached."""


class SigmoidGap(Gate):
    """``sigmoid((log p(a) - log q(a)) / t)``: large if the token is more likely under the teacher than the student.

    The gate of SDAR, for any divergence; SDAR's own loss is :class:`~hero_pl.losses.sampled_token.GatedSampledToken`.

    Args:
        gate_temperature: ``t``, in nats; a smaller value gives a steeper gate.
    """

    by_token = True

    def __init__(self, gate_temperature: float = 1.0) -> None:
        super().__init__()
        self.gate_temperature = _checked_positive(self, "gate_temperature", gate_temperature)

    @torch.no_grad()
    def forward(self, inputs: GateInputs) -> Tensor:
        """0.5 where both sides give the sampled token the same probability."""
        log_q = inputs.student.of_actions(inputs.action_ids)
        log_p = inputs.teacher.of_actions(inputs.action_ids)
        return torch.sigmoid((log_p - log_q) / self.gate_temperature)


class TeacherConfidence(Gate):
    """Confidence of the teacher: tokens where it is uncertain get less weight (from SAGE-OPD).

    Args:
        measure: ``entropy`` is ``1 - H(p) / log V``; ``max_probability`` is the teacher's largest probability.
    """

    by_token = True

    def __init__(self, measure: Literal["entropy", "max_probability"] = "entropy") -> None:
        super().__init__()
        if measure not in ("entropy", "max_probability"):
            raise ConfigError(f"TeacherConfidence(measure={measure!r}): expected entropy or max_probability.")
        self.measure = measure

    @torch.no_grad()
    def forward(self, inputs: GateInputs) -> Tensor:
        """0 for a uniform teacher (``entropy``), 1 for a teacher with one possible token."""
        if self.measure == "max_probability":
            return inputs.teacher.measure(lambda log_p: log_p.amax(-1).exp())
        uncertainty = inputs.teacher.measure(entropy)
        return (1.0 - uncertainty / math.log(inputs.teacher.vocabulary)).clamp(0.0, 1.0)


class StepDivergence(Gate):
    """``exp(-mean divergence of the turn / c)``: turns with a large divergence get less weight (from SOD).

    Args:
        scale: ``c``, in nats.
    """

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__()
        self.scale = _checked_positive(self, "scale", scale)

    def check(self, loss: DistillationLoss, subtracts: bool) -> None:
        """See :meth:`Gate.check`: a surrogate has no size that says how far the sides are apart."""
        if not loss.is_divergence:
            raise ConfigError(
                f"StepDivergence weights turns by their divergence, but the value of {type(loss).__name__} is none: "
                "turns that the teacher endorses would get the least weight. Use a divergence over the vocabulary "
                "(ReverseKL), or another gate."
            )

    @torch.no_grad()
    def forward(self, inputs: GateInputs) -> Tensor:
        """The same weight for all tokens of a turn."""
        return (-mean_over(inputs.divergence().detach(), inputs.turn) / self.scale).exp().clamp(max=1.0)


class Contrastive(Gate):
    """Compares the true hint with wrong hints, so that an effect that *any* hint has gets no weight (from RLCSD).

    The sigmoid of the gap ``log p(a) - log mean_k p_k(a)`` between the true hint and K wrong ones.

    Args:
        gate_temperature: Divides the gap, in nats; a smaller value gives a steeper gate.
        negative_hints: K; each needs one more forward pass of the teacher.
    """

    by_token = True

    def __init__(self, gate_temperature: float = 1.0, negative_hints: int = 1) -> None:
        super().__init__()
        self.gate_temperature = _checked_positive(self, "gate_temperature", gate_temperature)
        if negative_hints < 1:
            raise ConfigError(
                f"Contrastive(negative_hints={negative_hints}): expected at least 1 hint of another turn."
            )
        self.negative_hints = negative_hints

    def check(self, loss: DistillationLoss, subtracts: bool) -> None:
        """See :meth:`Gate.check`: both sides of the comparison must have the effect of the wording, or none."""
        if subtracts:
            raise ConfigError(
                "Contrastive compares the hint with wrong hints of the same wording, and scaffold=subtract takes the "
                "effect of the wording out of the first only. Set scaffold to keep, or take another gate."
            )

    @torch.no_grad()
    def forward(self, inputs: GateInputs) -> Tensor:
        """0.5 where the sampled token is equally likely with the true hint and with wrong ones.

        Raises:
            ConfigError: The wrong hints were not scored.
        """
        wrong = inputs.wrong_hint_log_probs
        if wrong is None or wrong.ndim != 2 or wrong.shape[0] == 0:
            raise ConfigError(
                "Contrastive needs wrong_hint_log_probs of shape (K, N): the sampled ids scored by the teacher under "
                "at least one shuffled hint."
            )
        log_p = inputs.teacher.of_actions(inputs.action_ids)
        usual = wrong.to(log_p.dtype).logsumexp(0) - math.log(wrong.shape[0])
        return torch.sigmoid((log_p - usual) / self.gate_temperature)


class HighEntropy(Gate):
    """Keep only the tokens of each trajectory where the student's entropy is highest.

    Args:
        quantile: Fraction of a trajectory's tokens to keep, in (0, 1].
    """

    def __init__(self, quantile: float = 0.2) -> None:
        super().__init__()
        if not 0.0 < quantile <= 1.0:
            raise ConfigError(f"HighEntropy(quantile={quantile}): expected a fraction of tokens to keep in (0, 1].")
        self.quantile = quantile

    @torch.no_grad()
    def forward(self, inputs: GateInputs) -> Tensor:
        """1 for the kept tokens, 0 for the others; ties at the threshold are kept."""
        uncertainty = inputs.student.measure(entropy)
        trajectory = torch.zeros_like(inputs.action_ids) if inputs.trajectory is None else inputs.trajectory
        factor = torch.zeros_like(uncertainty)
        for one in torch.unique(trajectory):
            mine = uncertainty[trajectory == one]
            kept = max(1, math.ceil(self.quantile * mine.numel()))
            factor[trajectory == one] = (mine >= mine.topk(kept).values[-1]).to(factor.dtype)
        return factor


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats over the last axis; entries of probability 0 contribute nothing."""
    per_entry: Tensor = torch.special.entr(log_probs.exp())
    return per_entry.sum(-1)


def _checked_positive(gate: Gate, name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0.0):
        raise ConfigError(f"{type(gate).__name__}({name}={value}): expected a positive number of nats.")
    return value
