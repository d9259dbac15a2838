"""Metrics of parts become those of the whole."""

import pytest
import torch

from hero_pl.losses.base import combine


def test_means_are_weighted_by_tokens_and_maxima_are_the_largest() -> None:
    names = ("teacher/divergence", "loss/max_token", "mismatch/abs_max", "policy_gradient/ratio_max", "x/softmax_mean")
    combined = combine([(1, dict.fromkeys(names, 5.0)), (4, dict.fromkeys(names, 0.0))])
    assert [float(combined[name]) for name in names] == [1.0, 5.0, 5.0, 5.0, 1.0]


def test_a_part_that_lacks_a_metric_has_no_weight_in_its_mean() -> None:
    combined = combine([(2, {"a": 1.0}), (6, {"a": 3.0, "b": 7.0})])
    assert {name: float(value) for name, value in combined.items()} == {"a": 2.5, "b": 7.0}


def test_without_parts_there_is_nothing_and_tensors_keep_their_precision() -> None:
    assert combine([]) == {}
    assert combine([(3, {"a": torch.tensor(0.5)})])["a"].dtype == torch.float32
    assert float(combine([(3, {"a": 0.1})])["a"]) == pytest.approx(0.1, abs=1e-16)
