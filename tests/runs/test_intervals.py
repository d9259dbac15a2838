"""Student's t by hand and against its tables, and intervals over runs and tasks."""

import math

import numpy as np
import pytest

from hero_pl.runs.compare import bootstrap, effect_interval, runs_needed
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


def test_bug_881_equal_values_have_no_interval_of_zero_width() -> None:
    assert mean_interval([0.1 + 0.2, 0.3]) == (-math.inf, math.inf)
    assert mean_interval([0.5, 0.5, 0.5]) == mean_interval([0.5]) == (-math.inf, math.inf)


def test_the_draws_add_the_noise_of_runs_and_of_tasks() -> None:
    # Effects per run 0.2 and 0.6: drawing two of two runs gives the mean a variance of 0.04 / 2 = 0.02.
    runs_only = [{"a": 0.2, "b": 0.2}, {"a": 0.6, "b": 0.6}]
    assert bootstrap(runs_only).var() == pytest.approx(0.02, rel=0.1)
    # Two tasks +-0.4, the same in both runs: drawing two of two tasks for all runs alike gives 0.16 / 2 = 0.08.
    tasks_only = [{"a": -0.4, "b": 0.4}] * 2
    assert bootstrap(tasks_only).var() == pytest.approx(0.08, rel=0.1)
    both = [{"a": -0.2, "b": 0.6}, {"a": 0.2, "b": 1.0}]
    assert bootstrap(both).var() == pytest.approx(0.10, rel=0.1)


def test_a_run_may_lack_tasks() -> None:
    assert bootstrap([{"a": 0.5}, {"a": 0.5, "b": 0.5}]) == pytest.approx(0.5)


def test_the_interval_covers_the_truth_as_often_as_it_says_with_few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hero_pl.runs.compare.RESAMPLES", 400)
    generator = np.random.default_rng(0)
    for runs, of_runs, of_tasks in ((2, 0.1, 0.3), (3, 0.1, 0.3), (5, 0.1, 0.3), (3, 0.0, 0.5), (5, 0.05, 0.5)):
        inside = 0
        for _ in range(200):
            shared = 0.1 + generator.normal(0.0, of_tasks, size=40)
            effects = (
                shared + generator.normal(0.0, of_runs, size=(runs, 1)) + generator.normal(0, 0.2, size=(runs, 40))
            )
            _, low, high = effect_interval([dict(enumerate(run)) for run in effects])
            inside += low <= 0.1 <= high
        assert inside >= 184, (runs, of_runs, of_tasks)  # 92 %; quantiles of draws within runs cover 54 % to 83 %


def test_with_one_run_the_interval_is_that_of_the_tasks() -> None:
    effect, low, high = effect_interval([{str(i): float(i % 2) for i in range(100)}])
    assert effect == 0.5
    assert high - effect == pytest.approx(effect - low)
    assert high - effect == pytest.approx(1.984 * 0.05, rel=0.1)


def test_runs_that_share_one_task_have_the_interval_of_student_s_t() -> None:
    # the bootstrap alone would give 1/2 of the variance: d = (0.0, 0.2), s / sqrt(2) = 0.1, t = 12.706
    effect, low, high = effect_interval([{"task": 0.0}, {"task": 0.2}])
    assert effect == pytest.approx(0.1)
    assert high - effect == pytest.approx(effect - low)
    assert high - effect == pytest.approx(12.706 * 0.1, rel=0.05)


def test_runs_needed_by_hand() -> None:
    # d = s = 0.1: sqrt(10) = 3.162 >= 2.262 + 0.883 = 3.145 at 9 degrees of freedom, and 3 < 2.306 + 0.889 at 8.
    assert runs_needed([0.0, 0.1, 0.2]) == 10
    assert runs_needed([-0.2, -0.1, 0.0]) == 10
    assert runs_needed([0.3, 0.3]) is None
    assert runs_needed([0.3]) is None
    assert runs_needed([-0.1, 0.1]) is None
    assert runs_needed([-0.1, 0.1000001]) is None
