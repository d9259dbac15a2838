"""Moving-average teachers: the rate is the weight of the student, and the average is in float32."""

import pytest
import torch

from hero_pl.errors import ConfigError, TokenAlignmentError
from hero_pl.teacher.ema import ema_update_, trust_region_log_probs


def test_bug_19_a_small_rate_still_moves_a_float32_average() -> None:
    average, student = torch.tensor([1.0]), torch.tensor([1.5]).bfloat16()
    for _ in range(200):
        ema_update_([average], [student], update_rate=0.001)
    assert average.item() == pytest.approx(1.5 - 0.5 * 0.999**200, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bug_19_a_low_precision_average_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ConfigError, match="stall"):
        ema_update_([torch.ones(1, dtype=dtype)], [torch.ones(1)], 0.05)


def test_bug_20_the_rate_is_the_weight_of_the_student() -> None:
    average = torch.tensor([0.0, 10.0])
    ema_update_([average], [torch.tensor([1.0, 20.0])], update_rate=0.05)
    assert average.tolist() == pytest.approx([0.05, 10.5])


def test_rates_zero_and_one_freeze_and_copy_exactly() -> None:
    teacher, student = torch.randn(7), torch.randn(7)
    before = teacher.clone()
    ema_update_([teacher], [student], 0.0)
    assert torch.equal(teacher, before)
    ema_update_([teacher], [student], 1.0)
    assert torch.equal(teacher, student)


def test_counters_are_copied() -> None:
    counter = torch.tensor([3])
    ema_update_([counter], [torch.tensor([8])], 0.1)
    assert counter.tolist() == [8]


def test_the_student_and_its_graph_are_left_alone() -> None:
    student = torch.nn.Parameter(torch.ones(2))
    average = torch.zeros(2)
    ema_update_([average], [student], 0.5)
    assert student.tolist() == [1.0, 1.0]
    assert not average.requires_grad


def test_nothing_moves_when_one_tensor_does_not_match() -> None:
    good, bad = torch.zeros(2), torch.zeros(3)
    with pytest.raises(ConfigError, match="same order"):
        ema_update_([good, bad], [torch.ones(2), torch.ones(4)], 0.5)
    assert good.tolist() == [0.0, 0.0]
    with pytest.raises(ConfigError, match="2 tensors, the student 1"):
        ema_update_([good, bad], [torch.ones(2)], 0.5)
    with pytest.raises(ConfigError, match=r"update_rate=1\.5"):
        ema_update_([good], [torch.ones(2)], 1.5)


def test_trust_region_in_both_spaces_by_hand() -> None:
    reference, live = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.8, 0.2]).log()
    # geometric: sqrt(0.5 * 0.8) : sqrt(0.5 * 0.2) = 2 : 1
    assert trust_region_log_probs(reference, live, 0.5).exp().tolist() == pytest.approx([2 / 3, 1 / 3])
    mixed = trust_region_log_probs(reference, live, 0.25, "probabilities")
    assert mixed.exp().tolist() == pytest.approx([0.575, 0.425])


@pytest.mark.parametrize("space", ["logits", "probabilities"])
def test_trust_region_ends_at_either_side(space: str) -> None:
    reference, live = torch.randn(3, 5), torch.randn(3, 5, requires_grad=True)
    torch.testing.assert_close(trust_region_log_probs(reference, live, 0.0, space), reference.log_softmax(-1))
    at_live = trust_region_log_probs(reference, live, 1.0, space)
    torch.testing.assert_close(at_live, live.detach().log_softmax(-1))
    assert not at_live.requires_grad


def test_unusable_trust_regions_are_refused() -> None:
    pair = torch.zeros(2), torch.zeros(2)
    with pytest.raises(ConfigError, match="mix=2"):
        trust_region_log_probs(*pair, 2.0)
    with pytest.raises(ConfigError, match="logits or probabilities"):
        trust_region_log_probs(*pair, 0.5, "weights")  # type: ignore[arg-type]
    with pytest.raises(TokenAlignmentError):
        trust_region_log_probs(torch.zeros(2), torch.zeros(3), 0.5)
