"""Credit from the teacher's gap; expected numbers by hand."""

import math

import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.losses.credit import gap_magnitudes, reweighted_advantages, turn_credits


def test_reweighting_by_hand() -> None:
    advantages = torch.tensor([2.0, 2.0, -2.0, -2.0, 0.0])
    gap = torch.tensor([1.0, -1.0, 1.0, -1.0, 3.0])
    up, down = 2.0 * (1 + 0.5 * math.tanh(0.5)), 2.0 * (1 - 0.5 * math.tanh(0.5))
    expected = torch.tensor([up, down, -down, -up, 0.0])
    torch.testing.assert_close(reweighted_advantages(advantages, gap, strength=0.5, scale=2.0), expected)


def test_no_gap_however_large_flips_a_sign() -> None:
    gap = torch.linspace(-1e4, 1e4, 101)
    for sign in (1.0, -1.0):
        assert (sign * reweighted_advantages(torch.full((101,), sign), gap, strength=0.99, scale=1e-3) > 0).all()
    with pytest.raises(ConfigError, match="strength"):
        reweighted_advantages(gap, gap, strength=1.0)


def test_magnitudes_by_hand() -> None:
    credit = gap_magnitudes(torch.tensor([0.1, -9.0, 5.0]), torch.tensor([-0.5, 0.5, 7.0]), cap=3.0)
    assert credit.tolist() == [0.5, -0.5, 3.0]


def test_turn_credits_are_sums_over_turns_in_any_order() -> None:
    numbers, credits, index = turn_credits(torch.tensor([1.0, 10.0, 2.0, 20.0]), torch.tensor([5, 3, 5, 3]))
    assert numbers.tolist() == [3, 5]
    assert credits.tolist() == [30.0, 3.0]
    assert index.tolist() == [1, 0, 1, 0]


def test_no_gradient_flows_through_credit() -> None:
    gap = torch.ones(2, requires_grad=True)
    turns = torch.tensor([0, 0])
    found = (reweighted_advantages(gap.detach(), gap), gap_magnitudes(gap.detach(), gap), turn_credits(gap, turns)[1])
    assert not any(credit.requires_grad for credit in found)
