"""Normalization: each mode by hand, and independence of how tokens are split, padded or ordered."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hero_pl.errors import ConfigError
from hero_pl.losses import JensenShannon, Normalization, coefficients, normalized_sum, zero_loss

# trajectories: 0 has turn 0 with one token and turn 1 with two; 1 has no token; 2 has turn 0 with three tokens
TURN = torch.tensor([0, 1, 1, 0, 0, 0])
TRAJECTORY = torch.tensor([0, 0, 0, 2, 2, 2])
WEIGHT = torch.tensor([1.0, 0.5, 0.5, 0.25, 0.25, 1.0], dtype=torch.float64)
PER_TOKEN = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], dtype=torch.float64)
WEIGHTED = [1.0, 1.0, 2.0, 2.0, 4.0, 32.0]
MODES = list(Normalization)


def make(
    mode: str,
    turn: Tensor = TURN,
    trajectory: Tensor = TRAJECTORY,
    weight: Tensor = WEIGHT,
    num_trajectories: int = 3,
    **more,
) -> Tensor:
    constant = 4.0 if mode == "seq_mean_token_sum_norm" else None
    return coefficients(
        mode,
        turn=turn,
        trajectory=trajectory,
        weight=weight,
        num_trajectories=num_trajectories,
        constant=constant,
        **more,
    )


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token_mean", 42 / 6),
        ("token_mean_weighted", 42 / 3.5),
        ("seq_mean_token_mean", (4 / 3 + 38 / 3) / 2),
        ("seq_mean_token_mean_keep_empty", (4 / 3 + 38 / 3) / 3),
        ("seq_mean_token_sum", (4 + 38) / 2),
        ("seq_mean_token_sum_norm", 42 / (3 * 4)),
        ("turn_mean", (1 + 3 / 2 + 38 / 3) / 3),
        ("traj_mean_turn_mean", ((1 + 3 / 2) / 2 + 38 / 3) / 2),
    ],
)
def test_every_mode_by_hand(mode: str, expected: float) -> None:
    assert (make(mode) * PER_TOKEN).sum().item() == pytest.approx(expected)


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Tensor | int]:
    num_trajectories = draw(st.integers(1, 4))
    spans = draw(
        st.lists(st.tuples(st.integers(0, num_trajectories - 1), st.integers(0, 2), st.integers(1, 4)), max_size=6)
    )
    trajectory = [r for r, _, length in spans for _ in range(length)]
    turn = [t for _, t, length in spans for _ in range(length)]
    weight = draw(st.lists(st.floats(0.125, 4.0), min_size=len(trajectory), max_size=len(trajectory)))
    return {
        "turn": torch.tensor(turn, dtype=torch.long),
        "trajectory": torch.tensor(trajectory, dtype=torch.long),
        "weight": torch.tensor(weight, dtype=torch.float64),
        "num_trajectories": num_trajectories,
    }


@pytest.mark.parametrize("mode", MODES)
@given(batch=batches(), order=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_order_of_tokens_does_not_matter(mode: str, batch: dict, order) -> None:
    shuffled = list(range(len(batch["trajectory"])))
    order.shuffle(shuffled)
    index = torch.tensor(shuffled, dtype=torch.long)
    moved = make(
        mode, batch["turn"][index], batch["trajectory"][index], batch["weight"][index], batch["num_trajectories"]
    )
    torch.testing.assert_close(moved, make(mode, **batch)[index])


@pytest.mark.parametrize("mode", MODES)
@given(batch=batches(), factor=st.floats(0.1, 10.0))
@settings(max_examples=30, deadline=None)
def test_weights_scale_numerators_only(mode: str, batch: dict, factor: float) -> None:
    plain = make(mode, **{**batch, "weight": torch.ones_like(batch["weight"])})
    weighted = make(mode, **batch)
    if mode == "token_mean_weighted":
        scaled = make(mode, **{**batch, "weight": factor * batch["weight"]})
        torch.testing.assert_close(scaled, weighted)
        return
    torch.testing.assert_close(weighted, plain * batch["weight"])


@pytest.mark.parametrize("mode", MODES)
@given(batch=batches())
@settings(max_examples=30, deadline=None)
def test_unweighted_coefficients_are_a_mean(mode: str, batch: dict) -> None:
    total = make(mode, **{**batch, "weight": torch.ones_like(batch["weight"])}).sum().item()
    active = len(set(batch["trajectory"].tolist()))
    expected = {
        "seq_mean_token_mean_keep_empty": active / batch["num_trajectories"],
        "seq_mean_token_sum": len(batch["trajectory"]) / max(active, 1),
        "seq_mean_token_sum_norm": len(batch["trajectory"]) / (4 * batch["num_trajectories"]),
    }.get(mode, 1.0 if active else 0.0)
    assert total == pytest.approx(expected)


@pytest.mark.parametrize("mode", MODES)
@given(batch=batches())
@settings(max_examples=20, deadline=None)
def test_bug_18_two_ranks_give_what_one_rank_gives_even_if_one_is_empty(mode: str, batch: dict) -> None:
    # each rank holds whole trajectories; the second may hold nothing
    cut = (batch["num_trajectories"] + 1) // 2
    ranks = [batch["trajectory"] < cut, batch["trajectory"] >= cut]
    parts = [
        {
            "turn": batch["turn"][mine],
            "trajectory": batch["trajectory"][mine] - first,
            "weight": batch["weight"][mine],
            "num_trajectories": num_trajectories,
        }
        for mine, first, num_trajectories in zip(ranks, (0, cut), (cut, batch["num_trajectories"] - cut), strict=True)
    ]
    local: list[Tensor] = []
    for part in parts:
        make(mode, **part, reduce_sum=lambda count: local.append(count) or count)
    assert len(local) == 2, "every rank takes part in exactly one sum, also an empty one"
    total = sum(local)
    whole = make(mode, **batch)
    for part, mine in zip(parts, ranks, strict=True):
        torch.testing.assert_close(make(mode, **part, reduce_sum=lambda _: total), whole[mine])


def gradient_in_pieces(mode: str, sizes: list[int]) -> Tensor:
    """Gradient of a whole step whose tokens are split into micro-batches of the given sizes."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(6, 5, generator=generator, dtype=torch.float64).requires_grad_()
    hidden = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    teacher = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    turn, trajectory = torch.tensor([0, 0, 1, 0, 0, 0, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 1, 1, 3])
    weight = torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 0.0, 2.0], dtype=torch.float64)
    coefficient = make(mode, turn, trajectory, weight, 4)
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        per_token = JensenShannon()(hidden[part] @ weights, teacher[part])
        normalized_sum(coefficient[part], per_token).backward()
        start += size
    assert start == 8
    assert weights.grad is not None
    return weights.grad


@pytest.mark.parametrize("sizes", [[4, 4], [1] * 8, [3, 0, 5], [2, 2, 2, 2]])
@pytest.mark.parametrize("mode", MODES)
def test_bug_15_and_16_gradient_does_not_depend_on_the_micro_batches(mode: str, sizes: list[int]) -> None:
    torch.testing.assert_close(gradient_in_pieces(mode, sizes), gradient_in_pieces(mode, [8]), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("mode", MODES)
def test_bug_18_no_tokens_at_all_give_zero_on_the_graph(mode: str) -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    coefficient = make(mode, nothing, nothing, torch.zeros(0))
    assert coefficient.shape == (0,)
    head = torch.randn(3, 4, requires_grad=True)
    logits = torch.zeros(0, 3) @ head
    loss = normalized_sum(coefficient, JensenShannon()(logits, logits.detach()))
    assert loss.item() == 0.0
    loss.backward()
    assert head.grad is not None
    assert not head.grad.any()


def test_bug_18_zero_loss_reaches_the_parameters_even_through_infinities() -> None:
    parameter = torch.ones(2, requires_grad=True)
    loss = zero_loss(parameter + torch.tensor([math.inf, 1.0]))
    loss.backward()
    assert loss.item() == 0.0
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [0.0, 0.0]


def test_bug_18_weights_that_are_all_zero_give_zero_not_nan() -> None:
    for mode in MODES:
        assert make(mode, weight=torch.zeros(6)).tolist() == [0.0] * 6


def masked_gradient(mask: Tensor, observation_shift: float) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    student, teacher = (torch.randn(2, 6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    student = (student + observation_shift * (~mask).unsqueeze(-1) * torch.arange(5)).requires_grad_()
    trajectory = torch.arange(2).unsqueeze(1).expand(2, 6)[mask]
    coefficient = coefficients(
        "traj_mean_turn_mean",
        turn=torch.arange(6).div(3, rounding_mode="floor").expand(2, 6)[mask],
        trajectory=trajectory,
        weight=torch.ones(len(trajectory), dtype=torch.float64),
        num_trajectories=2,
    )
    normalized_sum(coefficient, JensenShannon()(student[mask], teacher[mask])).backward()
    assert student.grad is not None
    return student.grad


@given(flags=st.lists(st.booleans(), min_size=12, max_size=12), shift=st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_bug_05_observation_logits_never_matter(flags: list[bool], shift: float) -> None:
    mask = torch.tensor(flags).view(2, 6)
    gradient = masked_gradient(mask, shift)
    assert not gradient[~mask].any()
    torch.testing.assert_close(gradient, masked_gradient(mask, 0.0))


def test_bug_29_the_dr_grpo_constant_is_not_read_off_the_longest_trajectory() -> None:
    more = 50
    turn, trajectory = (
        torch.cat([TURN, torch.zeros(more, dtype=torch.long)]),
        torch.cat([TRAJECTORY, torch.full((more,), 1)]),
    )
    weight = torch.cat([WEIGHT, torch.ones(more, dtype=torch.float64)])
    with_a_long_one = make("seq_mean_token_sum_norm", turn, trajectory, weight)
    assert torch.equal(with_a_long_one[:6], make("seq_mean_token_sum_norm"))
    assert torch.equal(make("seq_mean_token_sum_norm"), WEIGHT / 12)


def test_turn_numbers_may_repeat_in_other_trajectories() -> None:
    distinct = torch.tensor([0, 1, 1, 7, 7, 7])
    for mode in MODES:
        assert torch.equal(make(mode, turn=distinct), make(mode))


def test_coefficients_are_constants_of_the_step() -> None:
    assert not make("token_mean_weighted", weight=WEIGHT.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make("mean"), "expected one of token_mean"),
        (
            lambda: coefficients(
                "seq_mean_token_sum_norm", turn=TURN, trajectory=TRAJECTORY, weight=WEIGHT, num_trajectories=3
            ),
            "constant=None",
        ),
        (lambda: make("token_mean", num_trajectories=2), "trajectories 0 to 2, but there are 2"),
        (lambda: make("token_mean", turn=TURN[:3]), "equal length"),
        (lambda: normalized_sum(torch.ones(3), torch.ones(2)), "Slice the coefficients"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("mode", list(Normalization))
def test_tokens_outside_the_mask_count_nowhere(mode) -> None:
    turn, trajectory = torch.tensor([0, 0, 1, 2, 2, 3]), torch.tensor([0, 0, 0, 1, 1, 2])
    weight = torch.tensor([1.0, 0.5, 1.0, 1.0, 2.0, 1.0])
    mask = torch.tensor([True, False, True, True, True, False])
    masked = coefficients(
        mode, turn=turn, trajectory=trajectory, weight=weight, num_trajectories=4, constant=3.0, mask=mask
    )
    alone = coefficients(
        mode, turn=turn[mask], trajectory=trajectory[mask], weight=weight[mask], num_trajectories=4, constant=3.0
    )
    assert torch.equal(masked[mask], alone)
    assert not masked[~mask].any()


def test_shares_of_two_normalizations_add_their_coefficients_with_one_reduction_each() -> None:
    turn, trajectory, weight = (
        torch.tensor([0, 0, 1, 0]),
        torch.tensor([0, 0, 0, 1]),
        torch.tensor([1.0, 0.5, 1.0, 1.0]),
    )
    where = {"turn": turn, "trajectory": trajectory, "weight": weight, "num_trajectories": 2}
    calls: list[torch.Tensor] = []

    def counted(local: torch.Tensor) -> torch.Tensor:
        calls.append(local)
        return local

    actual = coefficients({"token_mean": 0.25, "traj_mean_turn_mean": 0.75}, **where, reduce_sum=counted)
    parts = [coefficients(mode, **where) for mode in ("token_mean", "traj_mean_turn_mean")]
    torch.testing.assert_close(actual, 0.25 * parts[0] + 0.75 * parts[1])
    assert len(calls) == 2
