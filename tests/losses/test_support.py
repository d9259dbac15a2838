"""Top-k supports by hand: true probabilities, one tail bucket, no duplicates."""

import math

import pytest
import torch

from hero_pl.losses import ForwardKL, JensenShannon, ReverseKL
from hero_pl.losses.support import reduce_support

STUDENT = torch.tensor([[0.5, 0.3, 0.1, 0.1]], dtype=torch.float64).log()
TEACHER = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64).log()


def test_buckets_of_the_student_support_by_hand() -> None:
    log_q, log_p, metrics = reduce_support(STUDENT, TEACHER, "student", 2, tail=True)
    assert log_q.exp().tolist()[0] == pytest.approx([0.5, 0.3, 0.2])
    assert log_p.exp().tolist()[0] == pytest.approx([0.1, 0.2, 0.7])
    assert float(metrics["topk/student_mass"]) == pytest.approx(0.8)
    assert float(metrics["topk/teacher_mass"]) == pytest.approx(0.3)


def test_buckets_of_the_teacher_support_by_hand() -> None:
    log_q, log_p, _ = reduce_support(STUDENT, TEACHER, "teacher", 2, tail=False)
    assert log_q.exp().tolist()[0] == pytest.approx([0.5, 0.5])
    assert log_p.exp().tolist()[0] == pytest.approx([4 / 7, 3 / 7])


def test_union_counts_a_shared_token_once() -> None:
    student = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.5, 0.1, 0.3, 0.1]], dtype=torch.float64).log()
    log_q, log_p, metrics = reduce_support(student, teacher, "union", 2, tail=True)
    # tokens 0 and 1 of the student, token 2 of the teacher; token 0 only once
    assert sorted(log_q.exp()[log_q > -math.inf].tolist()) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert sorted(log_p.exp()[log_p > -math.inf].tolist()) == pytest.approx([0.1, 0.1, 0.3, 0.5])
    assert float(metrics["topk/student_mass"]) == pytest.approx(0.9)


@pytest.mark.parametrize("support", ["student", "teacher", "union"])
@pytest.mark.parametrize("tail", [True, False])
def test_bug_12_buckets_are_distributions_so_no_divergence_is_negative(support: str, tail: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    sides = [(3 * torch.randn(200, 50, generator=generator)).log_softmax(-1) for _ in range(2)]
    log_q, log_p, _ = reduce_support(*sides, support, 5, tail)
    for side in (log_q, log_p):
        torch.testing.assert_close(side.exp().sum(-1), torch.ones(200))
    gap = (log_p - log_q).nan_to_num(0.0)
    for loss in (ForwardKL(), ReverseKL(), JensenShannon()):
        assert loss.terms(log_q.exp(), log_p.exp(), gap)[0].sum(-1).min() > -1e-6
        assert loss(*sides).min() >= 0.0


def test_bug_12_the_tail_sees_mass_outside_the_support() -> None:
    # inside the student's favorite both sides agree on the proportions; the teacher moved half of the mass outside
    student = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.3, 0.15, 0.55]], dtype=torch.float64).log()
    with_tail = ForwardKL(support="student", top_k=2)(student, teacher).item()
    assert with_tail == pytest.approx(0.45 * math.log(0.5) + 0.55 * math.log(5.5))
    assert ForwardKL(support="student", top_k=2, tail=False)(student, teacher).item() == pytest.approx(0.0, abs=1e-12)


def test_bug_13_both_sides_are_read_at_the_same_tokens() -> None:
    # favorites differ: student 0 and 1, teacher 3 and 2. Buckets (1/2, 3/10, 1/5) against (1/10, 1/5, 7/10)
    expected = 0.1 * math.log(0.1 / 0.5) + 0.2 * math.log(0.2 / 0.3) + 0.7 * math.log(0.7 / 0.2)
    assert ForwardKL(support="student", top_k=2)(STUDENT, TEACHER).item() == pytest.approx(expected)
    # teacher's: buckets (1/10, 1/10, 8/10) against (4/10, 3/10, 3/10)
    expected = 0.4 * math.log(4) + 0.3 * math.log(3) + 0.3 * math.log(3 / 8)
    assert ForwardKL(support="teacher", top_k=2)(STUDENT, TEACHER).item() == pytest.approx(expected)


def test_union_sees_what_either_single_support_misses() -> None:
    full = ForwardKL()(STUDENT, TEACHER).item()
    one_sided = [ForwardKL(support=side, top_k=2)(STUDENT, TEACHER).item() for side in ("student", "teacher")]
    union = ForwardKL(support="union", top_k=2)(STUDENT, TEACHER).item()
    assert max(one_sided) < union == pytest.approx(full)


def test_a_support_as_large_as_the_vocabulary_is_the_full_divergence() -> None:
    for support in ("student", "teacher", "union"):
        wide = JensenShannon(support=support, top_k=100)(STUDENT, TEACHER)
        torch.testing.assert_close(wide, JensenShannon()(STUDENT, TEACHER))


def test_coarser_buckets_never_raise_the_divergence() -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (2 * torch.randn(100, 30, generator=generator, dtype=torch.float64) for _ in range(2))
    full = JensenShannon()(student, teacher)
    for support in ("student", "teacher", "union"):
        assert (JensenShannon(support=support, top_k=4)(student, teacher) <= full + 1e-12).all()


def test_masses_of_the_last_call_are_in_the_diagnostics() -> None:
    loss = JensenShannon(support="student", top_k=2)
    loss(STUDENT, TEACHER)
    assert float(loss.diagnostics["topk/teacher_mass"]) == pytest.approx(0.3)
    loss(STUDENT, STUDENT)
    assert float(loss.diagnostics["topk/teacher_mass"]) == pytest.approx(0.8)
    assert loss(STUDENT[:0], TEACHER[:0]).shape == (0,)
    assert loss.diagnostics == {}
