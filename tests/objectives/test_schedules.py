"""Settings that change with the optimizer steps; expected values by hand."""

import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.losses.normalize import coefficients
from hero_pl.objectives.mixed import Mixed
from hero_pl.objectives.schedules import Blend, Schedule, normalization_at, scheduled
from hero_pl.objectives.self_distillation import SelfDistillation


def test_a_constant_with_warm_up_rises_like_the_learning_rate() -> None:
    assert [Schedule(0.8, warmup_steps=4).at(step) for step in range(6)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    )


def test_linear_and_cosine_meet_at_both_ends_and_in_the_middle() -> None:
    linear, cosine = (Schedule(1.0, 0.5, shape, begin=10, steps=4) for shape in ("linear", "cosine"))
    assert [linear.at(step) for step in (0, 10, 11, 12, 14, 99)] == pytest.approx([1.0, 1.0, 0.875, 0.75, 0.5, 0.5])
    # (1 - cos(pi / 4)) / 2 = 0.1464466 of the way
    assert [cosine.at(step) for step in (0, 10, 11, 12, 14, 99)] == pytest.approx([1, 1, 0.9267767, 0.75, 0.5, 0.5])


def test_warm_up_multiplies_the_way() -> None:
    assert Schedule(1.0, 0.0, "linear", steps=4, warmup_steps=2).at(0) == 0.5
    assert Schedule(1.0, 0.0, "linear", steps=4, warmup_steps=2).at(2) == 0.5


def test_a_number_is_the_schedule_that_stays_at_it() -> None:
    assert [scheduled(0.7).at(step) for step in (0, 10**6)] == [0.7, 0.7]
    assert scheduled(0.7).range() == (0.7, 0.7)
    assert Schedule(0.7, warmup_steps=3).range() == (0.0, 0.7)


def test_only_a_schedule_that_reached_zero_for_good_has_ended() -> None:
    decay = Schedule(1.0, 0.0, "linear", begin=2, steps=3)
    assert [decay.has_ended_at_zero(step) for step in range(7)] == [False] * 5 + [True] * 2
    assert not Schedule(1.0, 0.1, "linear", steps=3).has_ended_at_zero(99)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"initial": 1.0, "shape": "square"}, "expected shape to be one of"),
        ({"initial": float("nan")}, "finite"),
        ({"initial": 1.0, "warmup_steps": -1}, "at least 0 optimizer steps"),
        ({"initial": 1.0, "shape": "linear", "final": 0.0}, "need final and steps"),
        ({"initial": 1.0, "shape": "cosine", "steps": 3}, "need final and steps"),
        ({"initial": 1.0, "final": 0.0}, "constant accepts neither"),
        ({"initial": 1.0, "begin": 3}, "constant accepts neither"),
    ],
)
def test_half_a_schedule_is_refused(wrong: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Schedule(**wrong)


def test_bug_83_a_blend_starts_at_the_first_normalization_and_ends_at_the_second() -> None:
    blend = Blend("traj_mean_turn_mean", Schedule(0.0, 1.0, "linear", begin=2, steps=4))
    turn, trajectory = torch.tensor([0, 0, 0, 1]), torch.zeros(4, dtype=torch.long)
    where = {"turn": turn, "trajectory": trajectory, "weight": torch.ones(4), "num_trajectories": 1}
    result = [
        coefficients(normalization_at("seq_mean_token_mean", blend, step), **where)[3].item() for step in (0, 4, 6)
    ]
    assert result == pytest.approx(
        [1 / 4, 3 / 8, 1 / 2]
    )  # the short turn has a quarter of the tokens, half of the turns


def test_blends_that_cannot_be_are_refused_when_the_objective_is_built() -> None:
    with pytest.raises(ConfigError, match="expected values in"):
        Blend("turn_mean", Schedule(0.0, 1.5, "linear", steps=2))
    rise = Schedule(0.0, 1.0, "linear", steps=2)
    with pytest.raises(ConfigError, match="the same as normalize"):
        SelfDistillation(normalize="turn_mean", blend=Blend("turn_mean", rise))
    with pytest.raises(ConfigError, match="constant"):
        SelfDistillation(normalize="turn_mean", blend=Blend("seq_mean_token_sum_norm", rise))


def test_ranges_are_checked_at_both_ends_of_the_way() -> None:
    with pytest.raises(ConfigError, match="distillation_weight"):
        Mixed(distillation_weight=Schedule(0.5, 1.5, "linear", steps=3), mix="convex")
    with pytest.raises(ConfigError, match="confidence_weights"):
        SelfDistillation(confidence_weights={"low": Schedule(1.0, -1.0, "linear", steps=3)})
