"""Losses per token and their normalisation: pure functions of logits and log-probabilities.

Nothing here knows of text, trajectories or training loops. Tokens arrive flat, one entry per sampled action token.
"""

from hero_pl.losses.base import DistillationLoss
from hero_pl.losses.divergence import VocabularyDivergence
from hero_pl.losses.jensen_shannon import JensenShannon
from hero_pl.losses.kl import ForwardKL, ReverseKL, SkewForwardKL, SkewReverseKL
from hero_pl.losses.normalize import Normalization, coefficients, normalised_sum, zero_loss
from hero_pl.losses.sampled_token import SampledToken

__all__ = [
    "DistillationLoss",
    "ForwardKL",
    "JensenShannon",
    "Normalization",
    "ReverseKL",
    "SampledToken",
    "SkewForwardKL",
    "SkewReverseKL",
    "VocabularyDivergence",
    "coefficients",
    "normalised_sum",
    "zero_loss",
]
