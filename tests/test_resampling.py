"""DAPO's dynamic sampling: groups with equal rewards are replaced, and their cost is counted."""

from dataclasses import replace

import pytest
from lightning.pytorch.callbacks import Callback

from hero_pl.errors import ConfigError
from hero_pl.objectives.policy_gradient import GRPO, SoftOverlong
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Limits
from hero_pl.types import StopReason, Trajectory, Turn


def episodes(rewards: dict[int, tuple[float, ...]]) -> list[Trajectory]:
    return [
        Trajectory(f"t{group}", "e", i, group, "", (), "", (), reward, StopReason.TERMINATED)
        for group, values in rewards.items()
        for i, reward in enumerate(values)
    ]


def test_groups_without_spread_are_drawn_again_while_there_are_tries_left() -> None:
    batch = episodes({4: (0.0, 0.0), 5: (0.0, 1.0), 6: (1.0, 1.0)})
    objective = GRPO(zero_variance="resample", max_resample=2)
    assert [objective.redraw(batch, attempt) for attempt in (1, 2, 3)] == [[4, 6], [4, 6], []]
    assert GRPO(zero_variance="mask").redraw(batch, 1) == []
    with pytest.raises(ConfigError, match="max_resample"):
        GRPO(zero_variance="resample", max_resample=0)


def test_bug_745_broken_episodes_are_no_signal() -> None:
    batch = episodes({1: (1.0, 1.0, 0.0), 2: (1.0, 0.0, 0.0), 3: (1.0, 0.0, 0.0), 4: (0.0, 0.0, 1.0), 5: (1.0, 0.0)})
    ends = {
        (1, 2): StopReason.ENV_ERROR,  # leaves 1, 1
        (2, 1): StopReason.ENV_TIMEOUT,  # with the next one: leaves 1
        (2, 2): StopReason.SAMPLER_ERROR,
        (3, 2): StopReason.ENDPOINT_ERROR,  # leaves 1, 0
        (4, 0): StopReason.ENV_ERROR,  # leaves 0, 1
        (5, 0): StopReason.ENV_ERROR,  # with the next one: leaves none
        (5, 1): StopReason.ENV_ERROR,
    }
    batch = [replace(t, stop_reason=ends.get((t.group, t.seed), t.stop_reason)) for t in batch]
    assert GRPO(zero_variance="resample").redraw(batch, 1) == [1, 2, 5]


class Played(Callback):
    """Stores the episodes and the metrics of each step."""

    def __init__(self) -> None:
        self.batches, self.metrics = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.batches.append(batch)
        self.metrics.append({key: float(value) for key, value in trainer.callback_metrics.items()})


def lucky(share: int):
    """A policy that buys the right product in every ``share``-th episode, and ignores the pages otherwise."""
    from hero_pl.pocket.shop.rules import Page, Request, action

    def reply(context: str, seed: int) -> str:
        request = Request.read(context)
        page = Page.read(context.split("<|im_start|>user\n")[-1].partition("<|im_end|>")[0])
        assert request is not None
        return action(page.slot, request.value(page.slot)) if seed % share == 0 else "click[nothing]"

    return reply


def run(tiny_module, tiny_data, fit, share: int, **options):
    module = tiny_module(GRPO(zero_variance="resample", **options))
    module.policy = ScriptedPolicy(lucky(share))
    data = tiny_data(tasks_per_step=2, group_size=2, max_action_tokens=64, limits=Limits(max_turns=6))
    played = Played()
    fit(module, data, steps=1, callbacks=[played], limit_train_batches=1, max_epochs=1)
    return module, data, played


def test_a_batch_without_signal_becomes_one_with_signal_and_the_discarded_turns_count(
    tiny_module, tiny_data, fit
) -> None:
    module, data, played = run(tiny_module, tiny_data, fit, share=4, max_resample=40)
    (batch,), (metrics,) = played.batches, played.metrics
    assert len(data.discarded) > 0
    for group in (0, 1):
        assert len({t.reward for t in batch if t.group == group}) == 2
    assert sorted(t.group for t in batch) == [0, 0, 1, 1]
    assert len({t.seed for t in (*batch, *data.discarded)}) == len(batch) + len(data.discarded)
    assert metrics["rollout/frac_reward_zero_std"] == 0.0
    discarded = sum(len(t.turns) for t in data.discarded)
    assert metrics["rollout/discarded_turns"] == discarded
    assert module.turns == discarded + sum(len(t.turns) for t in batch)
    sampled = sum(len(turn.action_ids) for t in (*batch, *data.discarded) for turn in t.turns)
    assert metrics["rollout/action_tokens"] == sampled


def test_a_policy_that_never_succeeds_gives_up_after_the_last_try(tiny_module, tiny_data, fit) -> None:
    _, data, played = run(tiny_module, tiny_data, fit, share=10**12, max_resample=3)
    assert len(data.discarded) == 3 * 4
    assert played.metrics[0]["rollout/frac_reward_zero_std"] == 1.0
    assert played.metrics[0]["train/skipped_steps"] == 1.0  # what is still equal is masked out


def test_bug_769_the_penalty_on_length_moves_advantages_and_is_no_signal_by_itself_where_groups_are_drawn_again() -> (
    None
):
    def episode(length: int) -> Trajectory:
        turn = Turn(1, (), (1,) * length, (0.0,) * length, "", "", "", "user")
        return replace(episodes({0: (1.0,)})[0], turns=(turn,))

    objective = GRPO(scale_rewards="none", zero_variance="mask", overlong=SoftOverlong(longest=10, buffer=4))
    term, metrics = objective.term([episode(6), episode(8), episode(30)])
    # penalties 0, -1/2, -1 with mean -1/2
    assert term.advantage == pytest.approx([0.5, 0.0, -0.5])
    assert list(term.weight) == [1.0, 1.0, 1.0]  # the middle one is part of a group with spread
    assert float(metrics["rollout/frac_reward_zero_std"]) == 1.0  # of the rewards themselves
    resampling = GRPO(scale_rewards="group", zero_variance="resample", overlong=SoftOverlong(longest=10, buffer=4))
    assert resampling.redraw([episode(6), episode(8)], 1) == [0]
    assert list(resampling.term([episode(6), episode(8)])[0].weight) == [0.0, 0.0]  # what redraw wanted to replace
    with pytest.raises(ConfigError, match="buffer"):
        SoftOverlong(longest=3, buffer=4)
