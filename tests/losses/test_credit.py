"""Credit from the teacher's gap; expected numbers by hand."""

import math

import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.losses.credit import (
    belief_factors,
    gap_magnitudes,
    reweighted_advantages,
    rlsd_advantages,
    turn_credits,
)


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


def test_bug_76_rlsd_keeps_the_ratio_within_its_band() -> None:
    gaps = torch.tensor([2.0, 0.0, -2.0, 0.1])
    assert rlsd_advantages(torch.ones(4), gaps).tolist() == pytest.approx([1.1, 1.0, 0.9, 0.5 + 0.5 * math.exp(0.1)])


def test_bug_77_rlsd_weighs_a_failed_token_by_how_much_the_teacher_rejects_it() -> None:
    assert rlsd_advantages(-torch.ones(3), torch.tensor([2.0, 0.0, -2.0])).tolist() == pytest.approx([-0.9, -1.0, -1.1])


def test_rlsd_of_strength_0_is_the_plain_policy_gradient_and_a_zero_advantage_stays_zero() -> None:
    advantages = torch.tensor([0.7, -0.3, 0.0])
    gap = torch.tensor([1.0, 1.0, 1.0])
    assert torch.equal(rlsd_advantages(advantages, gap, strength=0.0), advantages)
    assert rlsd_advantages(advantages, gap)[2] == 0.0


@pytest.mark.parametrize("wrong", [{"strength": 1.1}, {"strength": -0.1}, {"band": 1.0}, {"band": -0.1}])
def test_a_share_that_could_flip_an_advantage_is_refused(wrong: dict[str, float]) -> None:
    one = torch.ones(1)
    for rule in (lambda: rlsd_advantages(one, one, **wrong), lambda: belief_factors(one, one, one, one, **wrong)):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            rule()
    with pytest.raises(ConfigError, match="decay"):
        belief_factors(one, one, one, one, decay=0.0)


def beliefs(evidence: list[float], sign: float = 1.0, **options: float) -> list[float]:
    pieces = torch.tensor(evidence, dtype=torch.float64)
    trajectory = torch.zeros(len(evidence), dtype=torch.long)
    return belief_factors(
        sign * torch.ones_like(pieces), pieces, trajectory, torch.full_like(pieces, 0.5), **options
    ).tolist()


def test_bug_81_the_belief_forgets_evidence_turn_by_turn() -> None:
    # B: 1/2, then sigmoid(2), sigmoid(1) with half of it left: revisions .3808 and -.1498, standardized 1 and -1
    assert beliefs([2.0, 0.0, 0.0], decay=0.5) != pytest.approx(beliefs([2.0, 0.0, 0.0], decay=1.0), rel=1e-3)
    kept = beliefs([2.0, 0.0, 0.0], decay=1.0)
    assert kept[1] == pytest.approx(kept[2])  # nothing is revised after the first turn
    gone = beliefs([2.0, 0.0, 0.0], decay=0.5)
    assert gone[1] < gone[2]  # the second turn loses more of the belief than the third


def test_a_turn_that_revises_the_belief_against_the_outcome_weighs_less() -> None:
    won, lost = beliefs([2.0, -2.0], 1.0), beliefs([2.0, -2.0], -1.0)
    assert won == pytest.approx([1.1, 0.9], rel=1e-5)
    assert lost == pytest.approx([0.9, 1.1], rel=1e-5)


def test_the_only_turn_of_a_trajectory_and_a_hopeless_group_keep_finite_factors() -> None:
    assert beliefs([3.0]) == [1.0]
    trajectory, prior = torch.tensor([0, 1, 0, 1]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    actual = belief_factors(torch.ones(4), torch.tensor([1e3, -1e3, -1e3, 1e3]), trajectory, prior)
    assert actual.isfinite().all()
    assert (actual > 0).all()


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
    plain = gap.detach()
    actual = [rule(plain, gap) for rule in (reweighted_advantages, rlsd_advantages, gap_magnitudes)]
    actual += [turn_credits(gap, turns)[1], belief_factors(plain, gap, turns, plain)]
    assert not any(credit.requires_grad for credit in actual)
