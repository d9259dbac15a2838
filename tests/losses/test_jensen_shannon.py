"""Jensen-Shannon by hand: value, bounds, and the side that beta weights."""

import math

import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.losses import ForwardKL, JensenShannon, ReverseKL


def random_logits(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(20, 7, generator=generator, dtype=torch.float64) for _ in range(2))


def test_value_by_hand() -> None:
    # q = (1/2, 1/2), p = (1, 0), M = (3/4, 1/4):
    # 1/2 KL(q||M) + 1/2 KL(p||M) = 1/4 ln(2/3) + 1/4 ln 2 + 1/2 ln(4/3)
    student = torch.zeros(1, 1, 2)
    teacher = torch.tensor([[[50.0, -50.0]]])
    expected = 0.25 * math.log(2 / 3) + 0.25 * math.log(2) + 0.5 * math.log(4 / 3)
    assert JensenShannon(0.5)(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_bug_09_beta_is_the_weight_of_the_teacher() -> None:
    # q = (1/2, 1/2), p = (1, 0), beta = 1/4: M = 3/4 q + 1/4 p = (5/8, 3/8)
    # 3/4 [1/2 ln(4/5) + 1/2 ln(4/3)] + 1/4 ln(8/5)
    student = torch.zeros(1, 2, requires_grad=True)
    teacher = torch.tensor([[50.0, -50.0]])
    loss = JensenShannon(0.25)(student, teacher)
    expected = 0.375 * math.log(4 / 5) + 0.375 * math.log(4 / 3) + 0.25 * math.log(8 / 5)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    # gradient (1 - beta) q (log(q/M) - KL(q||M)): 3/8 (ln(4/5) - ln(4/3)) / 2 for the first token
    loss.sum().backward()
    first = 0.375 * 0.5 * (math.log(4 / 5) - math.log(4 / 3))
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([first, -first], rel=1e-6)


def test_symmetric_at_one_half_only() -> None:
    student, teacher = random_logits()
    torch.testing.assert_close(JensenShannon()(student, teacher), JensenShannon()(teacher, student))
    torch.testing.assert_close(JensenShannon(0.2)(student, teacher), JensenShannon(0.8)(teacher, student))
    assert not torch.allclose(JensenShannon(0.2)(student, teacher), JensenShannon(0.2)(teacher, student), rtol=1e-2)


def test_end_points_are_kl_divergences_only_after_division() -> None:
    student, teacher = random_logits()
    forward, reverse = ForwardKL()(student, teacher), ReverseKL()(student, teacher)
    small = 1e-6
    torch.testing.assert_close(JensenShannon(small)(student, teacher) / small, forward, rtol=1e-4, atol=0)
    torch.testing.assert_close(JensenShannon(1 - small)(student, teacher) / small, reverse, rtol=1e-4, atol=0)
    assert JensenShannon(small)(student, teacher).max() < 1e-4  # the plain value vanishes, a KL does not
    assert forward.max() > 0.1


def test_gradient_is_a_quarter_of_kl_next_to_the_teacher() -> None:
    teacher = random_logits()[0]
    student = (teacher + 1e-4 * random_logits(1)[0]).requires_grad_()
    (of_jsd,) = torch.autograd.grad(JensenShannon()(student, teacher).sum(), student)
    (of_kl,) = torch.autograd.grad(ForwardKL()(student, teacher).sum(), student)
    assert (of_jsd.norm() / of_kl.norm()).item() == pytest.approx(0.25, rel=1e-3)
    (rescaled,) = torch.autograd.grad(JensenShannon(0.1, rescale=True)(student, teacher).sum(), student)
    assert (rescaled.norm() / of_kl.norm()).item() == pytest.approx(1.0, rel=1e-3)


def test_teacher_receives_no_gradient() -> None:
    student, teacher = torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, 3, 5, requires_grad=True)
    JensenShannon()(student, teacher).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, math.nan])
def test_end_points_are_refused(beta: float) -> None:
    with pytest.raises(ConfigError, match="ForwardKL"):
        JensenShannon(beta)
