"""What a step logs: by hand, over the episodes that count."""

import math
from dataclasses import replace

import pytest
import torch

from hero_pl.batch import tokenize
from hero_pl.evaluation.rollout import rollout_metrics
from hero_pl.objectives.base import LossOutput, Step
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.step import StepOutputs, over_ranks, step_records
from hero_pl.types import FinishReason, StopReason, Trajectory, Turn


def turn(number: int, action: str, length: int) -> Turn:
    return Turn(number, (1,), (2,) * length, (-0.5,) * length, action, action, "", "user")


def episode(*turns: Turn, reward: float = 0.0, stop: StopReason = StopReason.TERMINATED) -> Trajectory:
    return Trajectory("t", "e", 0, 0, "", (), "", turns, reward, stop)


def test_the_numbers_that_tell_a_collapse_by_hand() -> None:
    # lengths 1, 2, 3, 4, 30: the median is 3, the 95th percentile lies 4/5 of the way from 4 to 30
    one = episode(turn(1, "a", 1), turn(2, "a", 2), turn(3, "b", 3))
    metrics = rollout_metrics([one, episode(turn(1, "a", 4), turn(2, "b", 30))])
    assert metrics["rollout/action_tokens_p50"] == 3.0
    assert metrics["rollout/action_tokens_p95"] == pytest.approx(4 + 0.8 * 26)
    assert metrics["rollout/repeated_actions"] == pytest.approx(1 / 5)  # the same action in another episode is none
    assert metrics["train/entropy"] == 0.5


def test_a_broken_episode_counts_as_broken_and_as_tokens_spent_and_nowhere_else() -> None:
    loud = replace(turn(1, "x", 9), malformed="no name", finish_reason=FinishReason.LENGTH, action_logprobs=(-8.0,) * 9)
    broken = episode(loud, replace(loud, number=2), reward=0.5, stop=StopReason.ENV_ERROR)
    sound = episode(turn(1, "a", 2), turn(2, "b", 2), reward=1.0)
    alone, both = rollout_metrics([sound]), rollout_metrics([sound, broken])
    different = {"rollout/terminated": 0.5, "rollout/env_error": 0.5, "rollout/action_tokens": 22.0}
    assert both == {**alone, **different}
    assert (both["rollout/reward"], both["rollout/turns_per_episode"], both["rollout/malformed"]) == (1.0, 2.0, 0.0)


def test_a_batch_of_broken_episodes_has_no_means_and_no_zeros_to_be_alarmed_by() -> None:
    metrics = rollout_metrics([episode(turn(1, "a", 3), stop=StopReason.ENV_ERROR)])
    told = {name: value for name, value in metrics.items() if not math.isnan(value)}
    assert told.pop("rollout/action_tokens") == 3.0
    assert told == {f"rollout/{reason}": float(reason is StopReason.ENV_ERROR) for reason in StopReason}


def test_micro_batches_are_combined_by_tokens_and_maxima_by_the_largest() -> None:
    policy = ScriptedPolicy()
    policy.load()
    prompt = policy.template.first_prompt("", "hi")
    played = [episode(replace(turn(1, "a", length), prompt_ids=prompt)) for length in (1, 3)]
    batch = tokenize(played, None, policy)
    outputs = StepOutputs()
    metrics = ({"loss/max_token": 4.0, "teacher/divergence": 2.0}, {"loss/max_token": 1.0, "teacher/divergence": 6.0})
    for micro, told in zip(batch.split(1), metrics, strict=True):
        outputs.add(micro, LossOutput(torch.tensor(0.25), told, torch.ones(len(micro))))
    outputs.finish(3.0)
    assert outputs.metrics == {
        "loss/max_token": 4.0,
        "teacher/divergence": (1 * 2.0 + 3 * 6.0) / 4,
        "train/loss": 0.5,
        "train/grad_norm": 3.0,
        "train/tokens": 4.0,
    }
    losses = [record.token_loss for record in step_records(played, Step(batch), outputs, 7)]
    assert losses == [((1.0,),), ((1.0, 1.0, 1.0),)]
    with pytest.raises(IndexError):  # a value without a place in the records is never dropped
        step_records(played[:1], Step(batch), outputs, 7)


def test_metrics_of_two_ranks_by_hand():
    parts = [
        (
            3.0,
            {
                "rollout/success": 1.0,
                "train/tokens": 10.0,
                "mismatch/abs_max": 0.1,
                "train/turns": 7.0,
                "a/b": math.nan,
            },
        ),
        (1.0, {"rollout/success": 0.0, "train/tokens": 5.0, "mismatch/abs_max": 0.3, "train/turns": 7.0, "a/b": 2.0}),
    ]
    parts[1][1]["reflection/issues/no_json"] = 2.0
    assert over_ranks(parts) == {
        "rollout/success": 0.75,
        "train/tokens": 15.0,
        "mismatch/abs_max": 0.3,
        "train/turns": 7.0,
        "a/b": 2.0,
        "reflection/issues/no_json": 2.0,
    }
    assert math.isnan(over_ranks([(1.0, {"x/y": math.nan}), (2.0, {"x/y": math.nan})])["x/y"])
