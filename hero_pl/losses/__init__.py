"""Losses per token and their normalization: pure functions of logits and log-probabilities.

Nothing here depends on text, trajectories or training loops. Tensors are flat, with one entry per sampled action token.
"""

from hero_pl.losses.advantages import (
    ReinforceBaseline,
    dr_grpo_advantages,
    frac_zero_std,
    grpo_advantages,
    maxrl_advantages,
    rloo_advantages,
    soft_overlong_penalty,
    without_spread,
)
from hero_pl.losses.base import DistillationLoss, action_log_probabilities, at_temperature, log_probabilities
from hero_pl.losses.credit import (
    belief_factors,
    gap_magnitudes,
    reweighted_advantages,
    rlsd_advantages,
    turn_credits,
)
from hero_pl.losses.divergence import VocabularyDivergence
from hero_pl.losses.gates import (
    Contrastive,
    Gate,
    GateInputs,
    HighEntropy,
    SigmoidGap,
    StepDivergence,
    TeacherConfidence,
)
from hero_pl.losses.importance import (
    DropFallen,
    ImportanceCorrection,
    NoCorrection,
    SequenceMask,
    SequenceRatioMask,
    TokenMask,
    TruncatedRatio,
    importance_ratio,
    mismatch,
)
from hero_pl.losses.jensen_shannon import JensenShannon
from hero_pl.losses.kl import ForwardKL, ReverseKL, SkewForwardKL, SkewReverseKL
from hero_pl.losses.mix import mix_losses, mix_weights
from hero_pl.losses.normalize import Normalization, coefficients, normalized_sum, zero_loss
from hero_pl.losses.policy_gradient import ClippedPolicyGradient, kl_to_reference
from hero_pl.losses.sampled_token import GatedSampledToken, SampledToken
from hero_pl.losses.scores import Scores
from hero_pl.losses.summed_divergence import SummedDivergence, Weighing, summed_divergence

__all__ = [
    "ClippedPolicyGradient",
    "Contrastive",
    "DistillationLoss",
    "DropFallen",
    "ForwardKL",
    "Gate",
    "GateInputs",
    "GatedSampledToken",
    "HighEntropy",
    "ImportanceCorrection",
    "JensenShannon",
    "NoCorrection",
    "Normalization",
    "ReinforceBaseline",
    "ReverseKL",
    "SampledToken",
    "Scores",
    "SequenceMask",
    "SequenceRatioMask",
    "SigmoidGap",
    "SkewForwardKL",
    "SkewReverseKL",
    "StepDivergence",
    "SummedDivergence",
    "TeacherConfidence",
    "TokenMask",
    "TruncatedRatio",
    "VocabularyDivergence",
    "Weighing",
    "action_log_probabilities",
    "at_temperature",
    "belief_factors",
    "coefficients",
    "dr_grpo_advantages",
    "frac_zero_std",
    "gap_magnitudes",
    "grpo_advantages",
    "importance_ratio",
    "kl_to_reference",
    "log_probabilities",
    "maxrl_advantages",
    "mismatch",
    "mix_losses",
    "mix_weights",
    "normalized_sum",
    "reweighted_advantages",
    "rloo_advantages",
    "rlsd_advantages",
    "soft_overlong_penalty",
    "summed_divergence",
    "turn_credits",
    "without_spread",
    "zero_loss",
]
