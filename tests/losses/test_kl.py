"""KL divergences by hand: direction, limits of clipping, bounds."""

import math

import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.losses import ForwardKL, JensenShannon, ReverseKL, SkewForwardKL, SkewReverseKL, at_temperature


def test_forward_gradient_is_student_minus_teacher() -> None:
    student = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    ForwardKL()(at_temperature(student, 2.0), at_temperature(teacher, 2.0)).sum().backward()
    expected = ((student / 2).softmax(-1) - (teacher / 2).softmax(-1)) / 2
    torch.testing.assert_close(student.grad, expected.detach())


def test_only_forward_reaches_a_token_the_student_never_produces() -> None:
    teacher = torch.tensor([[0.0, 0.0, 30.0]])
    reach = {}
    for loss in (ForwardKL(), ReverseKL(), JensenShannon()):
        student = torch.tensor([[0.0, 0.0, -90.0]], requires_grad=True)
        loss(student, teacher).sum().backward()
        assert student.grad is not None
        reach[type(loss).__name__] = -student.grad[0, 2].item()
    assert reach["ForwardKL"] == pytest.approx(1.0)
    assert reach["ReverseKL"] < 1e-20
    assert reach["JensenShannon"] < 1e-20


def test_skew_forward_by_hand() -> None:
    # p = (1, 0), q = (1/2, 1/2), alpha = 1/5: m = 1/5 p + 4/5 q = (3/5, 2/5); KL(p||m) = ln(5/3)
    loss = SkewForwardKL(0.2)(torch.zeros(1, 2), torch.tensor([[60.0, -60.0]]))
    assert loss.item() == pytest.approx(math.log(5 / 3), rel=1e-6)


def test_skew_reverse_by_hand() -> None:
    # q = (1, 0), p = (1/2, 1/2), alpha = 1/5: m = 4/5 p + 1/5 q = (3/5, 2/5); KL(q||m) = ln(5/3)
    loss = SkewReverseKL(0.2)(torch.tensor([[60.0, -60.0]]), torch.zeros(1, 2))
    assert loss.item() == pytest.approx(math.log(5 / 3), rel=1e-6)


@pytest.mark.parametrize("skewed", [SkewForwardKL, SkewReverseKL])
def test_skewed_forms_are_bounded_by_log_of_one_over_alpha(skewed: type) -> None:
    far = torch.tensor([[80.0, -80.0]])
    assert skewed(0.1)(far, -far).item() == pytest.approx(math.log(10), rel=1e-6)


@pytest.mark.parametrize("skewed", [SkewForwardKL, SkewReverseKL])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_degenerate_alpha_is_refused(skewed: type, alpha: float) -> None:
    with pytest.raises(ConfigError, match=f"alpha={alpha}"):
        skewed(alpha)
