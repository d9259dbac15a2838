"""Student's t by hand, and against its tables."""

import math

import pytest

from hero_pl.runs.intervals import mean_interval, student_quantile


@pytest.mark.parametrize(
    ("freedom", "wanted"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (10_000, 1.960)]
)
def test_the_quantile_is_that_of_the_tables(freedom: int, wanted: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(wanted, rel=2e-3)
    assert student_quantile(0.025, freedom) == pytest.approx(-wanted, rel=2e-3)


def test_the_interval_is_student_s_t_by_hand() -> None:
    # Mean 0.85, standard deviation 0.1 / sqrt 2, standard error 0.05: half width 12.706 * 0.05
    assert mean_interval([0.8, 0.9]) == pytest.approx((0.85 - 0.6353, 0.85 + 0.6353), abs=1e-4)
    # 1, 2, 3, 4: standard deviation sqrt(5/3), standard error sqrt(5/12), 3 degrees of freedom
    low, high = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert high - 2.5 == pytest.approx(2.5 - low) == pytest.approx(3.182 * math.sqrt(5 / 12), rel=2e-3)
    assert mean_interval([0.5]) == (-math.inf, math.inf)


def test_equal_values_have_no_interval_of_zero_width() -> None:
    assert mean_interval([0.5, 0.5, 0.5]) == mean_interval([0.5]) == (-math.inf, math.inf)
