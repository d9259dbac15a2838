"""The sampled-token surrogate: its gradient equals the gradient of the divergence."""

import math

import pytest
import torch

from hero_pl.errors import ConfigError, TokenAlignmentError
from hero_pl.losses import GatedSampledToken, ReverseKL, SampledToken


def test_expected_gradient_is_that_of_reverse_kl() -> None:
    student = torch.tensor([[0.2, -1.0, 0.7]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 0.3, -0.4]], dtype=torch.float64)
    q = student.softmax(-1).detach()[0]
    expectation = torch.zeros(1, 3, dtype=torch.float64)
    for token in range(3):
        (grad,) = torch.autograd.grad(SampledToken()(student, teacher, torch.tensor([token])).sum(), student)
        expectation += q[token] * grad
    (exact,) = torch.autograd.grad(ReverseKL()(student, teacher).sum(), student)
    torch.testing.assert_close(expectation, exact)


def test_value_by_hand_and_the_log_ratio_apart_from_it() -> None:
    # q(a) = 1/2, p(a) = 1/4: (ln 1/2 - ln 1/4) * ln 1/2 = -(ln 2)^2, log ratio ln 2
    student, teacher = torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]).log()
    loss = SampledToken()
    assert loss(student, teacher, torch.tensor([0])).item() == pytest.approx(-(0.6931472**2), rel=1e-6)
    assert float(loss.diagnostics["sampled/log_ratio_mean"]) == pytest.approx(0.6931472, rel=1e-6)


def test_equal_sides_have_no_gradient() -> None:
    student = torch.randn(4, 6, requires_grad=True)
    SampledToken()(student, student.detach(), torch.arange(4)).sum().backward()
    assert student.grad is not None
    assert not student.grad.any()


def test_bug_02_neither_the_teacher_nor_the_log_ratio_is_differentiated() -> None:
    student = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 3.0]], dtype=torch.float64).log().requires_grad_()
    SampledToken()(student, teacher, torch.tensor([0])).sum().backward()
    assert teacher.grad is None
    # ln 2 * d log q(a) = ln 2 * (1/2, -1/2)
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([0.34657359, -0.34657359])


def test_sampled_ids_are_required_one_per_token() -> None:
    with pytest.raises(ConfigError, match="action_ids"):
        SampledToken()(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(TokenAlignmentError, match="one sampled id"):
        SampledToken()(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(1, dtype=torch.long))


def test_bug_78_the_gate_of_sdar_is_a_constant_of_the_gradient() -> None:
    student = torch.tensor([[0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    value = GatedSampledToken(5.0)(student, teacher, torch.tensor([0]))
    gap = math.log(1 / (1 + math.exp(-2.0))) - math.log(0.5)
    gate = 1 / (1 + math.exp(-5.0 * gap))
    assert value.item() == pytest.approx(gate * gap)
    value.sum().backward()
    assert student.grad is not None
    assert student.grad.tolist() == [pytest.approx([-gate * 0.5, gate * 0.5])]  # -g grad log q, grad log q = 1 - q
    assert teacher.grad is None


def test_sdar_leaves_a_rejected_token_almost_alone() -> None:
    student = torch.zeros(2, 2, requires_grad=True)
    teacher = torch.tensor([[2.0, -2.0], [-2.0, 2.0]])
    GatedSampledToken()(student, teacher, torch.tensor([0, 0])).sum().backward()
    assert student.grad is not None
    endorsed, rejected = student.grad.norm(dim=-1).tolist()
    assert rejected < 1e-3 * endorsed


def test_sdar_names_what_is_missing_or_wrong() -> None:
    with pytest.raises(ConfigError, match="GatedSampledToken needs action_ids"):
        GatedSampledToken()(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(ConfigError, match="sharpness"):
        GatedSampledToken(0.0)
    nothing = GatedSampledToken()(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    assert nothing.shape == (0,)
