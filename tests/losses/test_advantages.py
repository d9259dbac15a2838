"""Advantages by hand, and the silent bugs of group statistics."""

import math

import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.losses import (
    ReinforceBaseline,
    dr_grpo_advantages,
    frac_zero_std,
    grpo_advantages,
    maxrl_advantages,
    rloo_advantages,
    soft_overlong_penalty,
    without_spread,
)

REWARDS = torch.tensor([0.0, 1.0, 1.0, 0.5, 0.25, 0.75], dtype=torch.float64)
GROUPS = torch.tensor([0, 0, 0, 9, 4, 4])
GROUPWISE = [grpo_advantages, dr_grpo_advantages, rloo_advantages, maxrl_advantages]


def test_bug_27_grpo_divides_by_the_sample_standard_deviation() -> None:
    # group 0: mean 2/3, squared deviations 4/9 + 1/9 + 1/9 = 2/3, ddof 1: std sqrt(1/3)
    std = math.sqrt(1 / 3)
    actual = grpo_advantages(REWARDS, GROUPS, eps=1e-4)
    assert actual[:3].tolist() == pytest.approx([-2 / 3 / (std + 1e-4), *[1 / 3 / (std + 1e-4)] * 2])
    # group 4: mean 1/2, std sqrt(2 / 16)
    assert actual[4:].tolist() == pytest.approx([-0.25 / (math.sqrt(1 / 8) + 1e-4), 0.25 / (math.sqrt(1 / 8) + 1e-4)])
    population = grpo_advantages(REWARDS, GROUPS, eps=0.0, ddof=0)
    assert population[:3].tolist() == pytest.approx([-math.sqrt(2), math.sqrt(0.5), math.sqrt(0.5)])


def test_the_other_estimators_by_hand() -> None:
    assert dr_grpo_advantages(REWARDS, GROUPS).tolist() == pytest.approx([-2 / 3, 1 / 3, 1 / 3, 0, -0.25, 0.25])
    assert rloo_advantages(REWARDS, GROUPS).tolist() == pytest.approx([-1, 0.5, 0.5, 0, -0.5, 0.5])
    assert maxrl_advantages(REWARDS, GROUPS).tolist() == pytest.approx([-1, 0.5, 0.5, 0, -0.5, 0.5])


@pytest.mark.parametrize("estimator", GROUPWISE)
def test_bug_25_group_ids_belong_to_their_trajectories(estimator) -> None:
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    torch.testing.assert_close(estimator(REWARDS[order], GROUPS[order]), estimator(REWARDS, GROUPS)[order])
    assert not torch.allclose(estimator(REWARDS, GROUPS[order]), estimator(REWARDS, GROUPS))


@pytest.mark.parametrize("estimator", GROUPWISE)
def test_bug_26_a_group_of_one_has_no_advantage(estimator) -> None:
    assert estimator(torch.tensor([1.0, 0.3]), torch.tensor([0, 1])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("estimator", GROUPWISE)
def test_bug_28_rewards_equal_up_to_noise_give_exactly_zero(estimator) -> None:
    noise = torch.tensor([0.5, 0.5 + 1e-9, 0.5 - 1e-9], dtype=torch.float64)
    assert estimator(noise, torch.zeros(3, dtype=torch.long)).tolist() == [0.0, 0.0, 0.0]
    tenths = torch.full((3,), 0.1, dtype=torch.float64)  # their mean is not exactly 0.1
    assert estimator(tenths, torch.zeros(3, dtype=torch.long)).tolist() == [0.0, 0.0, 0.0]


def test_maxrl_of_a_group_that_never_succeeds_is_zero() -> None:
    assert maxrl_advantages(torch.zeros(3), torch.zeros(3, dtype=torch.long)).tolist() == [0.0, 0.0, 0.0]
    assert maxrl_advantages(torch.tensor([-1.0, 1.0]), torch.tensor([0, 0])).tolist() == [0.0, 0.0]


def test_share_of_groups_without_spread() -> None:
    rewards = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.3])
    assert frac_zero_std(rewards, torch.tensor([0, 0, 1, 1, 2])) == pytest.approx(2 / 3)
    assert frac_zero_std(rewards[:0], torch.zeros(0, dtype=torch.long)) == 0.0


def test_empty_batches_have_empty_advantages() -> None:
    for estimator in GROUPWISE:
        assert estimator(torch.zeros(0), torch.zeros(0, dtype=torch.long)).shape == (0,)
    assert ReinforceBaseline("batch").advantages(torch.zeros(0)).shape == (0,)


def test_reinforce_baselines_by_hand() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.5])
    assert ReinforceBaseline().advantages(rewards).tolist() == [1.0, 0.0, 0.5]
    assert ReinforceBaseline("batch").advantages(rewards).tolist() == [0.5, -0.5, 0.0]


def test_running_baseline_uses_earlier_batches_only() -> None:
    baseline = ReinforceBaseline("running", decay=0.5)
    assert baseline.advantages(torch.tensor([1.0])).tolist() == [1.0]
    assert baseline.advantages(torch.tensor([0.0])).tolist() == [-1.0]
    # running mean of 1 and 0 with weights 1/2 and 1
    assert baseline.running_mean == pytest.approx(1 / 3)


def test_running_baseline_continues_from_a_checkpoint() -> None:
    first = ReinforceBaseline("running")
    first.advantages(torch.tensor([0.2, 0.9]))
    second = ReinforceBaseline("running")
    second.load_state_dict(first.state_dict())
    rewards = torch.tensor([0.4])
    assert torch.equal(first.advantages(rewards), second.advantages(rewards))
    assert first.state_dict() == second.state_dict()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="one entry per trajectory"):
        grpo_advantages(torch.zeros(3), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ConfigError, match="none, batch, running"):
        ReinforceBaseline("mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"decay=1\.0"):
        ReinforceBaseline("running", decay=1.0)


def test_the_soft_overlong_penalty_by_hand() -> None:
    penalty = soft_overlong_penalty(torch.tensor([0, 15, 16, 18, 20, 99]), longest=20, buffer=5)
    torch.testing.assert_close(penalty, torch.tensor([0.0, 0.0, -0.2, -0.6, -1.0, -1.0]))


def test_spread_is_found_per_trajectory_of_each_group() -> None:
    equal = without_spread(torch.tensor([1.0, 0.5, 1.0, 0.5 + 1e-9]), torch.tensor([7, 2, 7, 2]))
    assert equal.tolist() == [True] * 4
    assert without_spread(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0, 0, 1])).tolist() == [False, False, True]
