"""Metrics of a rollout batch over its evaluable episodes, against numbers computed by hand."""

from dataclasses import replace

import pytest

from hero_pl.evaluation.metrics import TURN_SHARES, scores
from hero_pl.evaluation.prompt_tokens import prompt_tokens
from hero_pl.evaluation.rollout import rollout_metrics
from hero_pl.evaluation.summary import logged, summarize
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.scalars import add_up, measured
from hero_pl.types import FinishReason, StopReason, Trajectory, Turn

POLICY = ScriptedPolicy()
POLICY.load()


def turn(number: int, action: str, length: int) -> Turn:
    return Turn(number, (1,), (2,) * length, (-0.5,) * length, action, action, "", "user")


def episode(*turns: Turn, reward: float = 0.0, stop: StopReason = StopReason.TERMINATED) -> Trajectory:
    return Trajectory("t", "e", 0, 0, "", (), "", turns, reward, stop)


def found(*trajectories: Trajectory, discarded: tuple[Trajectory, ...] = ()) -> dict[str, float]:
    """The logged metrics, without those of the parts of prompts."""
    tokens = {f"rollout/{name}" for name in prompt_tokens(trajectories, POLICY.dialect)}
    logged = measured(rollout_metrics(trajectories, discarded, POLICY.dialect))
    return {name: value for name, value in logged.items() if name not in tokens}


def test_the_numbers_that_tell_a_collapse_by_hand() -> None:
    # lengths 1, 2, 3, 4, 30: the median is 3, the 95th percentile lies 4/5 of the way from 4 to 30
    one = episode(turn(1, "a", 1), turn(2, "a", 2), turn(3, "b", 3))
    metrics = found(one, episode(turn(1, "a", 4), turn(2, "b", 30)))
    assert metrics["rollout/action_tokens_p50"] == 3.0
    assert metrics["rollout/action_tokens_p95"] == pytest.approx(4 + 0.8 * 26)
    assert metrics["rollout/repeated_actions"] == pytest.approx(1 / 5)  # the same action in another episode is none
    assert metrics["train/entropy"] == 0.5


def test_a_broken_episode_counts_as_broken_and_as_tokens_spent_and_nowhere_else() -> None:
    loud = replace(turn(1, "x", 9), malformed="no name", finish_reason=FinishReason.LENGTH, action_logprobs=(-8.0,) * 9)
    broken = episode(loud, replace(loud, number=2), reward=0.5, stop=StopReason.ENV_ERROR)
    sound = episode(turn(1, "a", 2), turn(2, "b", 2), reward=1.0)
    alone, both = found(sound), found(sound, broken)
    different = {"rollout/terminated": 0.5, "rollout/env_error": 0.5, "rollout/action_tokens": 22.0}
    assert both == {**alone, **different}
    assert (both["rollout/reward"], both["rollout/turns_per_episode"], both["rollout/malformed"]) == (1.0, 2.0, 0.0)


def test_a_batch_of_broken_episodes_has_no_means_and_no_zeros_to_be_alarmed_by() -> None:
    metrics = found(episode(turn(1, "a", 3), stop=StopReason.ENV_ERROR))
    zero = ("discarded_turns", "rewritten_tokens", "retried_episodes", "cut_observations")
    assert [metrics.pop(f"rollout/{name}") for name in ("action_tokens", *zero)] == [3.0, 0.0, 0.0, 0.0, 0.0]
    assert metrics == {f"rollout/{reason}": float(reason is StopReason.ENV_ERROR) for reason in StopReason}


def test_discarded_episodes_count_as_tokens_and_turns_spent() -> None:
    sound, other = episode(turn(1, "a", 2)), episode(turn(1, "b", 5), turn(2, "b", 5), reward=1.0)
    different = {"rollout/action_tokens": 12.0, "rollout/discarded_turns": 2.0}
    assert found(sound, discarded=(other,)) == {**found(sound), **different}


def test_over_two_ranks_means_are_over_what_was_averaged_and_percentiles_are_weighted_by_turns() -> None:
    # ranks of 2 and 1 episodes, of 1 + 1 and 6 turns
    one = [episode(turn(1, "a", 2), reward=1.0), episode(turn(1, "a", 2))]
    two = [episode(*(turn(i, "a", 10) for i in range(1, 7)))]
    ranks = [rollout_metrics(part, (), POLICY.dialect) for part in (one, two)]
    both, whole = measured(add_up(ranks)), measured(rollout_metrics(one + two, (), POLICY.dialect))
    assert both.pop("rollout/action_tokens_p50") == pytest.approx((2 * 2 + 6 * 10) / 8)  # of all turns it is 10
    assert both.pop("rollout/action_tokens_p95") == pytest.approx((2 * 2 + 6 * 10) / 8)
    assert both == pytest.approx({name: whole[name] for name in both})
    assert both["rollout/turns_per_episode"] == pytest.approx(8 / 3)
    assert both["rollout/repeated_actions"] == pytest.approx(5 / 8)  # not (2 * 0 + 1 * 5/6) / 3, by episodes


def test_metrics_per_turn_are_defined_once_and_reported_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TURN_SHARES, "shouted", lambda turn, trajectory: turn.action.isupper())
    played = [episode(turn(1, "BUY", 2), turn(2, "wait", 2), turn(3, "wait", 2), turn(4, "wait", 2))]
    assert float(scores(played)["shouted"]) == 0.25
    assert found(*played)["rollout/shouted"] == 0.25
    assert summarize(played)["shouted"] == logged(summarize(played))["shouted"] == 0.25


def test_episodes_that_were_played_again_and_observations_that_were_cut_are_counted() -> None:
    one = episode(replace(turn(1, "a", 3), cut_chars=7), turn(2, "b", 3))
    metrics = found(one, replace(one, cut_chars=2, failures=("env_error: x", "env_error: y")))
    assert (metrics["rollout/cut_observations"], metrics["rollout/retried_episodes"]) == (3.0, 1.0)
