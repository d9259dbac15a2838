"""Corrections for stale rollouts by hand."""

import math

import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.losses import (
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

# ratios 4, 1/2 | 1, 1/5
LOG_PROBS = torch.tensor([0.8, 0.1, 0.5, 0.1], dtype=torch.float64).log()
RECORDED = torch.tensor([0.2, 0.2, 0.5, 0.5], dtype=torch.float64).log()
TRAJECTORY = torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        (NoCorrection(), [1, 1, 1, 1]),
        (TruncatedRatio(), [2, 0.5, 1, 0.2]),
        (TruncatedRatio(cap=None), [4, 0.5, 1, 0.2]),
        (TokenMask(low=0.4, high=2.0), [0, 1, 1, 0]),
        (SequenceMask(low=0.5, high=2.0), [1, 1, 0, 0]),  # geometric means sqrt(2) and sqrt(1/5)
        (SequenceRatioMask(cap=1.5), [0, 0, 1, 1]),  # products 2 and 1/5
        (DropFallen(), [1, 1, 1, 0]),  # falls of -0.6, 0.1, 0, 0.4
    ],
)
def test_factors_by_hand(correction: ImportanceCorrection, expected: list[float]) -> None:
    log_probs = LOG_PROBS.clone().requires_grad_()
    factor = correction(log_probs, RECORDED, TRAJECTORY)
    assert factor.tolist() == pytest.approx(expected)
    assert not factor.requires_grad
    assert correction(LOG_PROBS[:0], RECORDED[:0], TRAJECTORY[:0]).shape == (0,)


def test_extreme_ratios_are_clamped_before_they_overflow() -> None:
    ratio = importance_ratio(torch.tensor([0.0, -500.0]), torch.tensor([-500.0, 0.0]))
    assert ratio.tolist() == pytest.approx([math.exp(20), math.exp(-20)])


def test_mismatch_by_hand() -> None:
    actual = mismatch(torch.tensor([0.0, math.log(2)]), torch.zeros(2))
    assert float(actual["mismatch/abs_mean"]) == pytest.approx(math.log(2) / 2)
    assert float(actual["mismatch/abs_max"]) == pytest.approx(math.log(2))
    assert float(actual["mismatch/kl"]) == pytest.approx((2 - math.log(2) - 1) / 2)
    assert mismatch(torch.zeros(0), torch.zeros(0)) == {}


@pytest.mark.parametrize(
    "build",
    [
        lambda: TruncatedRatio(cap=0.0),
        lambda: TruncatedRatio(log_ratio_clamp=0.0),
        lambda: TokenMask(low=1.5),
        lambda: SequenceMask(high=0.9),
        lambda: SequenceRatioMask(cap=-1.0),
        lambda: DropFallen(threshold=0.0),
    ],
)
def test_unusable_options_are_refused(build) -> None:
    with pytest.raises(ConfigError):
        build()
