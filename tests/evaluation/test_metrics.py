"""Metrics against numbers computed by hand."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from hero_pl.chat.actions import PlainText
from hero_pl.errors import ConfigError
from hero_pl.evaluation.metrics import (
    DoNothingFloor,
    MeanTurns,
    NonEvaluable,
    PassAtK,
    PassHatK,
    Success,
    TurnShare,
    pass_at_k,
    pass_hat_k,
    scores,
)
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.scalars import measured
from hero_pl.types import Role, StopReason, Trajectory, Turn


def turn(number: int, observation: str = "ok", role: Role = "tool", malformed: str | None = None) -> Turn:
    return Turn(number, (1,), (2,), (0.0,), "text", "action", observation, role, malformed=malformed)


def episode(
    task_id: str,
    reward: float,
    turns: tuple[Turn, ...] = (),
    stop: StopReason = StopReason.TERMINATED,
    **info: bool,
) -> Trajectory:
    return Trajectory(task_id, "env", 0, 0, "", (), "hi", turns, reward, stop, info=info)


def test_success_counts_rewards_within_a_millionth_of_one() -> None:
    metric = Success()
    metric.update([episode("a", 1.0), episode("b", 1.0 - 1e-7), episode("c", 0.999), episode("d", 0.0)])
    assert metric.compute().item() == pytest.approx(0.5)


def test_bug_63_broken_episodes_are_counted_apart_and_left_out_everywhere_else() -> None:
    broken = episode("a", 0.0, (turn(1), turn(2, "Error: x")), StopReason.ENV_ERROR, do_nothing_succeeds=False)
    batch = [broken, episode("a", 1.0, (turn(1),), do_nothing_succeeds=True), broken]
    for metric, expected in (
        (Success(), 1.0),
        (MeanTurns(), 1.0),
        (TurnShare("tool_errors"), 0.0),
        (NonEvaluable(), 2.0),
        (PassHatK(["a"], k=1), 1.0),
        (DoNothingFloor(), 1.0),
    ):
        metric.update(batch)
        assert metric.compute().item() == expected, type(metric).__name__


def test_without_episodes_a_mean_is_nan_and_a_count_is_zero() -> None:
    assert math.isnan(Success().compute().item())
    assert math.isnan(PassHatK(["a"]).compute().item())
    assert NonEvaluable().compute().item() == 0


@pytest.mark.parametrize("n", [1, 4, 6])
def test_the_estimators_equal_counting_all_draws(n: int) -> None:
    for c in range(n + 1):
        outcomes = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(combinations(outcomes, k))
            assert pass_hat_k(n, c, k) == pytest.approx(sum(map(all, subsets)) / len(subsets))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_hat_k_golden_numbers() -> None:
    # Four trials a task: a succeeds 4, b 3, c 2, d 0 times.
    # k=1: (1 + 3/4 + 2/4 + 0) / 4 = 9/16; k=2: (1 + 3/6 + 1/6 + 0) / 4 = 5/12
    # k=3: (1 + 1/4 + 0 + 0) / 4 = 5/16; k=4: 1/4
    for k, expected in ((1, 9 / 16), (2, 5 / 12), (3, 5 / 16), (4, 1 / 4)):
        metric = PassHatK(["a", "b", "c", "d"], k=k)
        for task_id, successes in (("a", 4), ("b", 3), ("c", 2), ("d", 0)):
            metric.update([episode(task_id, float(i < successes)) for i in range(4)])
        assert metric.compute().item() == pytest.approx(expected)


def test_pass_at_k_golden_numbers() -> None:
    # As above: k=2: (1 + 1 + (1 - 1/6) + 0) / 4 = 17/24
    metric = PassAtK(["a", "b", "c", "d"], k=2)
    for task_id, successes in (("a", 4), ("b", 3), ("c", 2), ("d", 0)):
        metric.update([episode(task_id, float(i < successes)) for i in range(4)])
    assert metric.compute().item() == pytest.approx(17 / 24)


@pytest.mark.parametrize("kind", [PassHatK, PassAtK])
def test_a_task_with_fewer_trials_than_k_is_never_dropped_from_the_mean(kind: type[PassHatK | PassAtK]) -> None:
    metric = kind(["a", "b", "never played"], k=2)
    metric.update([episode("a", 1.0), episode("a", 1.0), episode("b", 0.0)])
    assert math.isnan(metric.compute().item())
    metric.update([episode("b", 0.0)])
    assert metric.compute().item() == 0.5


def test_an_unknown_task_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match="'z'"):
        PassHatK(["a"]).update([episode("z", 1.0)])


def test_tool_errors_and_malformed_replies_are_shares_of_turns() -> None:
    turns = (
        turn(1, "Error: order not found"),
        turn(2, "Unknown action fly"),
        turn(3, "Error: the environment answers in the user's role", role="user"),
        turn(4, "Error: not JSON", malformed="not JSON"),
        turn(5, "{}"),
    )
    errors, malformed, mean = TurnShare("tool_errors"), TurnShare("malformed"), MeanTurns()
    for metric in (errors, malformed, mean):
        metric.update([episode("a", 0.0, turns)])
    assert errors.compute().item() == pytest.approx(3 / 5)
    assert malformed.compute().item() == pytest.approx(1 / 5)
    assert mean.compute().item() == 5.0


def test_the_words_of_a_simulated_user_are_no_tool_error() -> None:
    turns = (turn(1, "Error: I cannot log in", role="user"), turn(2, "Error: user not found"))
    played = replace(episode("a", 0.0, turns), info={"user": "scripted-full"})
    assert float(scores([played])["tool_errors"]) == 1 / 2


def test_what_the_pocket_shop_refuses_is_a_tool_error() -> None:
    policy = ScriptedPolicy(["click[no such thing]"], parser=PlainText())
    policy.load()
    shop = Collector("hero_pl/WebShopPocket-v0", limits=Limits(max_turns=2))
    played = shop.collect([EpisodeSpec(shop.task_ids[0], 0, 0)], policy, Sampling())
    assert played[0].turns[0].role == "user"
    assert float(scores(played)["tool_errors"]) == 1.0


def test_the_floor_follows_the_episodes_that_were_played() -> None:
    batch = [episode(str(i), 0.0, do_nothing_succeeds=i < 1) for i in range(3)]
    floor = DoNothingFloor()
    floor.update([*batch, episode("no word about it", 1.0)])
    assert floor.compute().item() == pytest.approx(1 / 3)
    assert float(scores(batch)["do_nothing_floor"]) == pytest.approx(1 / 3)


def test_an_environment_that_says_nothing_about_it_has_no_floor() -> None:
    assert math.isnan(DoNothingFloor().compute().item())
    assert "do_nothing_floor" not in scores([episode("a", 1.0)])


def test_the_scores_of_a_table_by_hand() -> None:
    broken = episode("c", 0.0, (turn(1),) * 9, StopReason.ENV_ERROR)
    shown = scores([episode("a", 1.0, (turn(1), turn(2, "Error: x"))), episode("b", 0.0, (turn(1),)), broken])
    of_turns = {"tool_errors": 1 / 3, "malformed": 0.0, "cut_actions": 0.0}
    assert measured(shown) == {"success": 0.5, "reward": 0.5, "turns": 1.5, **of_turns, "non_evaluable": 1.0}


def test_batches_and_ranks_add_up() -> None:
    first, second, both = (PassHatK(["a", "b"], k=1) for _ in range(3))
    one, two = [episode("a", 1.0)], [episode("a", 0.0), episode("b", 1.0)]
    first.update(one)
    second.update(two)
    both.update(one)
    both.update(two)
    # What a sum over ranks does with the states:
    assert torch.equal(first.trials + second.trials, both.trials)
    assert torch.equal(first.successes + second.successes, both.successes)
    assert both.compute().item() == pytest.approx(0.75)
