"""A review that continues an episode under the same weights runs only what the rollout has not run."""

from typing import Any

import pytest
import torch

from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.kept_rows import KeptRow
from hero_pl.policy.sampler import CachedSampler, CachedSession
from hero_pl.policy.sampling import Sampling
from hero_pl.reflection.controls import ShuffledReflector
from hero_pl.reflection.self_reflector import SelfReflector, review_prompt
from hero_pl.teacher.hindsight import FeedbackOnlyTeacher
from hero_pl.types import SampledAction, Trajectory


class Sessions(CachedSampler):
    """Remembers its sessions and what they drew."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[CachedSession] = []
        self.drawn: list[SampledAction] = []

    def open(self, *args: Any, **kwargs: Any) -> CachedSession:
        session = super().open(*args, **kwargs)
        self.opened.append(session)
        finished = session.finished

        def noted() -> list[tuple[int, SampledAction]]:
            found = finished()
            self.drawn += [action for _, action in sorted(found)]
            return found

        session.finished = noted  # type: ignore[method-assign]
        return session

    @property
    def fed(self) -> list[int]:
        return [session.fed_tokens for session in self.opened]


@pytest.fixture
def played(tiny_policy: Any, tiny_data: Any) -> Any:
    """A policy, its sampler, and episodes of different lengths whose keys and values were kept."""

    def play(keep: int = 8, episodes: int = 4) -> tuple[Any, Sessions, list[Trajectory]]:
        policy, data = tiny_policy(), tiny_data(tasks_per_step=episodes)
        policy.sampler = sampler = Sessions()
        policy.load()
        specs, collect = data.specs(0), data.collector("train").collect
        with sampler.keeping(keep):
            found = collect(specs[:1], policy, Sampling(1.0, 9)) + collect(specs[1:], policy, data.sampling)
        return policy, sampler, found

    return play


REVIEWER = SelfReflector(mode="continue", tokens_per_turn=4)


def reviewed(policy: Any, sampler: Sessions, trajectories: list[Trajectory]) -> list[SampledAction]:
    sampler.drawn.clear()
    REVIEWER.reflect(trajectories, policy)
    return list(sampler.drawn)


def test_rollout_and_review_run_each_token_of_the_history_once(played: Any) -> None:
    policy, sampler, trajectories = played()
    answers = reviewed(policy, sampler, trajectories)
    prompts = [review_prompt(trajectory, policy.dialect) for trajectory in trajectories]
    assert sum(sampler.fed) == sum(map(len, prompts)) + sum(len(answer.ids) - 1 for answer in answers)
    assert len({len(prompt) for prompt in prompts}) > 1


def test_a_continued_review_has_the_log_probabilities_of_one_that_is_run_as_a_whole(played: Any) -> None:
    policy, sampler, trajectories = played()
    got = reviewed(policy, sampler, trajectories)
    sampler.forget()
    want = reviewed(policy, sampler, trajectories)
    assert sampler.fed[-1] > sampler.fed[-2]
    for one, other in zip(got, want, strict=True):
        assert one.ids == other.ids
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=0)


def test_some_episodes_that_are_kept_stand_beside_others_that_are_not(played: Any) -> None:
    policy, sampler, trajectories = played(keep=2)
    assert len(sampler.kept.rows) == 2
    got = reviewed(policy, sampler, trajectories)
    sampler.forget()
    want = reviewed(policy, sampler, trajectories)
    assert sampler.fed[-1] > sampler.fed[-2]
    order = [sorted(actions, key=lambda action: action.ids) for actions in (got, want)]
    for one, other in zip(*order, strict=True):
        assert one.ids == other.ids
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=0)


def test_after_any_change_of_the_weights_all_of_it_is_run_again(played: Any) -> None:
    policy, sampler, trajectories = played()
    with torch.no_grad():
        next(policy.parameters()).mul_(1.5)
    got = reviewed(policy, sampler, trajectories)
    prompts = [review_prompt(trajectory, policy.dialect) for trajectory in trajectories]
    assert sampler.fed[-1] == sum(map(len, prompts)) + sum(len(answer.ids) - 1 for answer in got)


def test_other_weights_and_another_precision_never_take_what_was_kept(played: Any) -> None:
    policy, sampler, trajectories = played()
    network, prompt = policy.network, review_prompt(trajectories[0], policy.dialect)
    policy.keep("initial")
    assert sampler.kept.before(network, "live", prompt) is not None
    assert sampler.kept.before(network, "initial", prompt) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert sampler.kept.before(network, "live", prompt) is None
    assert sampler.kept.before(network, "live", prompt[:20]) is None
    with sampler.keeping(8):
        sampler.kept.put(network, "initial", KeptRow(prompt[:9], ()))
    assert [row.ids for row in sampler.kept.rows] == [prompt[:9]]


def test_a_longer_prompt_takes_the_longest_conversation_that_it_continues(played: Any) -> None:
    policy, sampler, trajectories = played()
    prompt = review_prompt(trajectories[0], policy.dialect)
    kept = sampler.kept.before(policy.network, "live", prompt)
    last = trajectories[0].turns[-1]
    assert kept is not None
    assert kept.ids == last.prompt_ids + last.action_ids[:-1]
    assert all(states.shape[2] == len(kept.ids) for both in kept.states for states in both)


@pytest.mark.parametrize(
    ("reflector", "kept"),
    [
        (SelfReflector(mode="continue", batch_size=3), 3),
        (ShuffledReflector(SelfReflector(mode="continue", batch_size=3)), 3),
        (SelfReflector(mode="continue", weights="initial"), 0),
        (SelfReflector(), 0),
        (ShopRules(), 0),
    ],
)
def test_only_what_a_review_will_continue_is_kept(reflector: Any, kept: int) -> None:
    assert SelfDistillation(reflector).continues == kept


def test_a_run_keeps_training_episodes_until_they_are_reviewed_and_evaluations_never(
    tiny_module: Any, tiny_data: Any, fit: Any
) -> None:
    objective = SelfDistillation(
        SelfReflector(mode="continue", tokens_per_turn=1), FeedbackOnlyTeacher(), probe_turns=0
    )
    module = tiny_module(objective)
    module.policy.sampler = sampler = Sessions()
    kept: list[int] = []
    reflect = objective.reflector.reflect

    def noted(trajectories: Any, policy: Any) -> Any:
        kept.append(len(sampler.kept.rows))
        return reflect(trajectories, policy)

    def in_the_loss(policy: Any, micro: Any) -> Any:
        kept.append(len(sampler.kept.rows))
        return loss(policy, micro)

    loss = objective.loss
    objective.reflector.reflect = noted  # type: ignore[method-assign]
    objective.loss = in_the_loss  # type: ignore[method-assign]
    data = tiny_data(eval_episodes=3)
    fit(module, data, 2, limit_val_batches=1, val_check_interval=1, num_sanity_val_steps=0)
    assert kept == [2, 0, 0, 2, 0, 0]  # the memory is free before the gradient step
    data.evaluate(module.policy, "validate", 3)
    assert sampler.kept.rows == []
