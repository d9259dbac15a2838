"""The clipped policy gradient by hand."""

import math

import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.losses import ClippedPolicyGradient, kl_to_reference


def test_ratio_is_clipped_only_where_clipping_is_pessimistic() -> None:
    old = torch.zeros(4, dtype=torch.float64)
    log_probs = torch.tensor([1.5, 1.5, 0.5, 0.5], dtype=torch.float64).log().requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    loss = ClippedPolicyGradient(epsilon=0.2, epsilon_high=0.28)
    per_token = loss(log_probs, old, advantages)
    assert per_token.tolist() == pytest.approx([-1.28, 1.5, -0.5, 0.8])
    per_token.sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([0.0, 1.5, -0.5, 0.0])
    assert float(loss.diagnostics["policy_gradient/clip_fraction"]) == 0.5


def test_on_policy_gradient_is_minus_the_advantage() -> None:
    log_probs = torch.tensor([-1.0, -2.0], requires_grad=True)
    advantages = torch.tensor([0.3, -0.7], requires_grad=True)
    old = log_probs.detach().clone().requires_grad_()
    ClippedPolicyGradient()(log_probs, old, advantages).sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([-0.3, 0.7])
    assert old.grad is None
    assert advantages.grad is None


def test_sequence_level_gives_a_row_one_ratio() -> None:
    log_probs = torch.tensor([0.2, 0.4, 0.1], dtype=torch.float64, requires_grad=True)
    old = torch.zeros(3, dtype=torch.float64)
    loss = ClippedPolicyGradient(epsilon=0.9, epsilon_high=0.9, ratio_level="sequence")
    per_token = loss(log_probs, old, torch.ones(3, dtype=torch.float64), torch.tensor([3, 3, 8]))
    assert per_token.tolist() == pytest.approx([-math.exp(0.3), -math.exp(0.3), -math.exp(0.1)])
    per_token.sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([-math.exp(0.3), -math.exp(0.3), -math.exp(0.1)])


def test_estimators_of_the_penalty_by_hand() -> None:
    log_probs = torch.tensor([0.5]).log()
    reference = torch.tensor([0.25]).log()
    assert kl_to_reference(log_probs, reference, "k1").item() == pytest.approx(math.log(2))
    assert kl_to_reference(log_probs, reference, "k3").item() == pytest.approx(0.5 + math.log(2) - 1)


def test_penalty_is_added_with_its_weight_and_spares_the_reference() -> None:
    log_probs = torch.tensor([0.5]).log().requires_grad_()
    reference = torch.tensor([0.25]).log().requires_grad_()
    loss = ClippedPolicyGradient(kl_weight=0.1)
    per_token = loss(log_probs, log_probs.detach(), torch.ones(1), reference_log_probs=reference)
    assert per_token.item() == pytest.approx(-1 + 0.1 * (0.5 + math.log(2) - 1))
    per_token.sum().backward()
    assert reference.grad is None
    assert log_probs.grad is not None
    assert log_probs.grad.item() == pytest.approx(-1 + 0.1 * (1 - 0.5))


def test_no_tokens_give_an_empty_loss_on_the_graph() -> None:
    log_probs = torch.zeros(0, requires_grad=True)
    for level in ("token", "sequence"):
        nothing = torch.zeros(0)
        per_token = ClippedPolicyGradient(ratio_level=level)(log_probs, nothing, nothing, nothing.long())
        assert per_token.shape == (0,)
        per_token.sum().backward()


@pytest.mark.parametrize(
    "options",
    [{"epsilon": 1.0}, {"epsilon_high": -0.1}, {"ratio_level": "row"}, {"kl_estimator": "k2"}, {"kl_weight": -1.0}],
)
def test_unusable_options_are_refused_when_the_loss_is_built(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        ClippedPolicyGradient(**options)


def test_bug_79_the_second_bound_holds_for_negative_advantages_alone() -> None:
    old = torch.zeros(4, dtype=torch.float64)
    log_probs = torch.tensor([5.0, 5.0, 2.0, 0.5], dtype=torch.float64).log().requires_grad_()
    advantages = torch.tensor([-2.0, 2.0, -2.0, -2.0], dtype=torch.float64)
    loss = ClippedPolicyGradient(dual_clip=3.0)
    per_token = loss(log_probs, old, advantages)
    assert per_token.tolist() == pytest.approx([6.0, -2.4, 4.0, 1.6])
    per_token.sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([0.0, 0.0, 4.0, 0.0])
    assert float(loss.diagnostics["policy_gradient/dual_clip_fraction"]) == 0.25


def test_bug_80_cispo_bounds_the_weight_and_every_token_keeps_its_gradient() -> None:
    old = torch.zeros(3, dtype=torch.float64)
    log_probs = torch.tensor([5.0, 0.1, 1.1], dtype=torch.float64).log().requires_grad_()
    advantages = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    loss = ClippedPolicyGradient(surrogate="cispo", epsilon=1.0, epsilon_high=1.0)
    loss(log_probs, old, advantages).sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([-2.0, -0.1, 1.1])
    assert float(loss.diagnostics["policy_gradient/clip_fraction"]) == pytest.approx(1 / 3)


def test_on_policy_all_surrogates_have_the_same_gradient() -> None:
    actual = []
    for options in ({}, {"dual_clip": 3.0}, {"surrogate": "cispo"}):
        log_probs = torch.tensor([-1.0, -2.0], requires_grad=True)
        ClippedPolicyGradient(**options)(log_probs, log_probs.detach(), torch.tensor([0.3, -0.7])).sum().backward()
        actual.append(log_probs.grad)
    assert torch.equal(actual[0], actual[1])
    torch.testing.assert_close(actual[0], actual[2])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dual_clip": 1.2}, "dual_clip"),
        ({"surrogate": "ppo"}, "surrogate"),
        ({"surrogate": "cispo", "dual_clip": 3.0}, "dual_clip"),
        ({"surrogate": "cispo", "ratio_level": "sequence"}, "ratio_level"),
    ],
)
def test_switches_that_exclude_each_other_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ClippedPolicyGradient(**options)


def test_missing_rows_or_reference_are_named() -> None:
    one = torch.zeros(1)
    with pytest.raises(ConfigError, match="trajectory of every token"):
        ClippedPolicyGradient(ratio_level="sequence")(one, one, one)
    with pytest.raises(ConfigError, match="reference_log_probs"):
        ClippedPolicyGradient(kl_weight=0.1)(one, one, one)
