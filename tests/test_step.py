"""Metrics and records of a step, against numbers computed by hand."""

from dataclasses import replace

import pytest
import torch

from hero_pl.batch import tokenize
from hero_pl.objectives.base import LossOutput, Step
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.scalars import largest, mean, measured
from hero_pl.step import StepOutputs, step_records
from hero_pl.types import StopReason, Trajectory, Turn


def turn(number: int, action: str, length: int) -> Turn:
    return Turn(number, (1,), (2,) * length, (-0.5,) * length, action, action, "", "user")


def episode(*turns: Turn, reward: float = 0.0, stop: StopReason = StopReason.TERMINATED) -> Trajectory:
    return Trajectory("t", "e", 0, 0, "", (), "", turns, reward, stop)


def test_micro_batches_add_up_and_every_value_has_its_place_in_the_records() -> None:
    policy = ScriptedPolicy()
    policy.load()
    prompt = policy.template.first_prompt("", "hi")
    played = [episode(replace(turn(1, "a", length), prompt_ids=prompt)) for length in (1, 3)]
    batch = tokenize(played, None, policy.dialect)
    outputs = StepOutputs()
    metrics = (
        {"loss/max_token": largest(4.0), "teacher/divergence": mean(2.0, 1)},
        {"loss/max_token": largest(1.0), "teacher/divergence": mean(6.0, 3)},
    )
    for micro, of_micro in zip(batch.split(1), metrics, strict=True):
        outputs.add(micro, LossOutput(torch.tensor(0.25), of_micro, torch.ones(len(micro))))
    outputs.grad_norm = 3.0
    assert measured(outputs.metrics()) == {
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
