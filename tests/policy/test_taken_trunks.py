"""A frozen teacher runs on the keys and values of the reviewer that has the same weights: no episode is run twice."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from hero_pl.objectives.mixed import Credit
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.policy.branches import BranchScorer
from hero_pl.policy.kept_rows import trunks_of
from hero_pl.policy.loading import Lora
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.controls import ShuffledReflector
from hero_pl.reflection.self_reflector import SelfReflector, review_prompt
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.weights import EMAWeights, InitialWeights, LiveWeights, TrustRegionWeights
from hero_pl.types import Diagnosis, Reflection, Trajectory
from tests.policy.test_borrowed_trunks import Seen, new_tokens
from tests.policy.test_branches import HOW


class Reviews(SelfReflector):
    """Asks the policy, and diagnoses every turn whatever it says: a tiny policy writes no valid review."""

    def __init__(self, **settings: Any) -> None:
        given: dict[str, Any] = {"mode": "continue", "weights": "initial", "tokens_per_turn": 4}
        super().__init__(**(given | settings))

    def reflect(self, trajectories: Sequence[Trajectory], policy: Any) -> list[Reflection]:
        super().reflect(trajectories, policy)
        return [
            Reflection(tuple(Diagnosis(f"note {turn.number}", "high") for turn in trajectory.turns), "ok")
            for trajectory in trajectories
        ]


def objective_of(reflector: Reflector | None = None, **settings: Any) -> SelfDistillation:
    given: dict[str, Any] = {
        "teacher": HindsightTeacher(template="short"),
        "weights": InitialWeights(),
        "probe_turns": 0,
    }
    return SelfDistillation(reflector or Reviews(), **(given | settings))


@pytest.fixture
def played(tiny_policy: Any, tiny_data: Any) -> Any:
    """A policy that has moved since its start, and its episodes."""

    def play(episodes: int = 3, **settings: Any) -> tuple[Any, list[Trajectory]]:
        policy, data = tiny_policy(**settings), tiny_data(tasks_per_step=episodes)
        policy.load()
        policy.keep("initial")
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        return policy, data.collector("train").collect(data.specs(0), policy, data.sampling)

    return play


def prepared(objective: SelfDistillation, policy: Any, trajectories: list[Trajectory]) -> Any:
    objective.start(policy)
    return objective.prepare(trajectories, policy, lambda local: local)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_reviewer_and_teacher_run_each_token_of_the_history_once(how: Any, lora: Any, played: Any) -> None:
    policy, trajectories = played(lora=lora)
    losses = []
    for scoring in ("separate", how):
        objective = objective_of(teacher_scoring=scoring)
        batch = prepared(objective, policy, trajectories).batch
        assert policy.sampler.kept.rows == []  # what the teacher takes is in the batch, and goes with it
        seen = Seen(policy)
        output = objective.loss(policy, batch)
        losses.append(output.loss)
    assert len(batch.teacher_trunks) == len(trajectories)
    teacher = int(float(output.metrics["teacher/forwarded_tokens"]))
    assert teacher == new_tokens(policy, batch)
    if lora is not None:  # otherwise the initial weights are a copy, whose tokens are not seen
        assert seen.tokens == sum(len(row.ids) for row in batch.student) + teacher
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-6)
    losses[1].backward()  # type: ignore[no-untyped-call]
    assert any(parameter.grad is not None for parameter in policy.parameters())


def test_the_reviewer_has_run_what_the_teacher_takes(played: Any) -> None:
    policy, trajectories = played()
    batch = prepared(objective_of(), policy, trajectories).batch
    for trunk, trajectory in zip(batch.teacher_trunks, trajectories, strict=True):
        prompt = review_prompt(trajectory, policy.dialect)
        assert trunk.row.ids[: len(prompt)] == prompt
        assert all(states.shape[2] == len(trunk.row.ids) for both in trunk.states for states in both)


def test_bug_750_an_episode_without_a_turn_has_no_trunk_and_ends_nothing(played: Any) -> None:
    policy, trajectories = played()
    objective = objective_of()
    alone = objective.loss(policy, prepared(objective, policy, trajectories).batch).loss
    too_long = replace(trajectories[0], turns=())  # its first message does not fit
    batch = prepared(objective, policy, [trajectories[0], too_long, *trajectories[1:]]).batch
    assert [trunk.row.trajectory for trunk in batch.teacher_trunks] == [0, 2, 3]
    torch.testing.assert_close(objective.loss(policy, batch).loss, alone)


@pytest.mark.parametrize("how", HOW)
def test_keys_and_values_of_other_weights_would_change_the_loss(how: Any, played: Any) -> None:
    policy, trajectories = played()
    objective = objective_of(teacher_scoring=how)
    batch = prepared(objective, policy, trajectories).batch
    right = objective.loss(policy, batch).loss.detach()
    spoiled = [
        replace(trunk, states=tuple((keys + 0.5, values + 0.5) for keys, values in trunk.states))
        for trunk in batch.teacher_trunks
    ]
    wrong = objective.loss(policy, replace(batch, teacher_trunks=tuple(spoiled))).loss.detach()
    assert abs(float(wrong - right)) > 1e-4


def test_what_does_not_fit_is_run_by_the_teacher(played: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, trajectories = played()
    whole = prepared(objective_of(), policy, trajectories).batch
    sizes = [sum(part.nbytes for both in trunk.states for part in both) for trunk in whole.teacher_trunks]
    want = objective_of().loss(policy, whole).loss
    monkeypatch.setattr("hero_pl.objectives.self_distillation.LENT_BYTES", sizes[-1])
    objective = objective_of()
    part = prepared(objective, policy, trajectories).batch
    assert [trunk.row.trajectory for trunk in part.teacher_trunks] == [2]
    torch.testing.assert_close(objective.loss(policy, part).loss, want, rtol=1e-4, atol=1e-6)


def test_a_micro_batch_has_the_trunks_of_its_trajectories_and_is_as_large_as_what_is_run(played: Any) -> None:
    policy, trajectories = played(2)
    batch = prepared(objective_of(), policy, trajectories).batch
    whole = sum(len(row.ids) for row in batch.student) + new_tokens(policy, batch)
    assert len(list(batch.split(whole))) == 1
    parts = list(batch.split(whole - 1))
    assert [[trunk.row.trajectory for trunk in part.teacher_trunks] for part in parts] == [[0], [1]]


@pytest.mark.parametrize(
    ("reflector", "weights", "taken"),
    [
        (Reviews(), InitialWeights(), 3),
        (ShuffledReflector(Reviews()), InitialWeights(), 3),
        (Reviews(), TrustRegionWeights(), 3),
        (Reviews(mode="transcript"), InitialWeights(), 0),  # its prompts do not begin with the episode
        (Reviews(weights="live"), InitialWeights(), 0),
        (Reviews(), LiveWeights(), 0),
        (Reviews(), EMAWeights(), 0),
    ],
)
def test_only_the_same_frozen_weights_lend(reflector: Any, weights: Any, taken: int, played: Any) -> None:
    policy, trajectories = played()
    batch = prepared(objective_of(reflector, weights=weights), policy, trajectories).batch
    assert len(batch.teacher_trunks) == taken
    assert policy.sampler.kept.rows == []


def test_a_cache_without_keys_of_every_token_lends_nothing(played: Any) -> None:
    policy, trajectories = played()
    policy.network.caching = "row"
    objective = objective_of()
    assert prepared(objective, policy, trajectories).batch.teacher_trunks == ()
    assert isinstance(objective.weights.scorer, BranchScorer)
    assert "sampler" in str(objective.weights.scorer.not_taken)


def test_nothing_is_taken_after_a_change_of_the_weights(played: Any) -> None:
    policy, trajectories = played()
    with policy.sampler.keeping(8):
        Reviews().reflect(trajectories, policy)
    assert len(trunks_of(policy.sampler.kept_under(policy, "initial"), trajectories)) == len(trajectories)
    assert policy.sampler.kept_under(policy, "live") == []
    with torch.no_grad():
        next(policy.network.copies["initial"].parameters()).mul_(1.5)
    assert policy.sampler.kept_under(policy, "initial") == []


def test_under_one_reduced_precision_reviewer_and_teacher_agree_as_two_passes_do(played: Any) -> None:
    policy, trajectories = played()
    losses = []
    for scoring in ("separate", "auto"):
        objective = objective_of(teacher_scoring=scoring)
        with torch.autocast("cpu", torch.bfloat16):
            batch = prepared(objective, policy, trajectories).batch
            losses.append(objective.loss(policy, batch).loss.float())
    assert len(batch.teacher_trunks) == len(trajectories)
    torch.testing.assert_close(losses[1], losses[0], rtol=5e-2, atol=1e-4)


def test_credit_of_a_teacher_that_speaks_before_the_student_takes_them_too(played: Any) -> None:
    policy, trajectories = played()
    given: dict[str, Any] = {"teacher": HindsightTeacher(template="short"), "probe_turns": 0}
    found = []
    for scoring in ("separate", "auto"):
        objective = Credit(reflector=Reviews(), weights=InitialWeights(), teacher_scoring=scoring, **given)
        step = prepared(objective, policy, trajectories)
        found.append(step.batch.advantage)
    plain = prepared(objective_of(), policy, trajectories).batch
    assert float(step.metrics["teacher/forwarded_tokens"]) == new_tokens(policy, plain)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
