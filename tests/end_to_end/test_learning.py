"""Result of each method in ``benchmarks/miniature.py`` at seed 0; chance is 1/12."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from miniature import (
    TASKS,
    Oracle,
    Weights,
    action_ids,
    context,
    distillation,
    fresh,
    make_obedient,
    make_world,
    names_the_right_action,
    says_right_or_wrong,
    skill,
    train,
)

from hero_pl.losses.base import DistillationLoss
from hero_pl.losses.kl import ForwardKL, ReverseKL
from hero_pl.objectives.policy_gradient import GRPO
from hero_pl.reflection.controls import ShuffledReflector
from hero_pl.teacher.weights import InitialWeights, LiveWeights, TeacherWeights
from hero_pl.types import ScoreRow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def obedient(world: Path) -> Weights:
    return make_obedient(world)


def test_the_warmed_up_model_follows_hints_and_solves_no_task(world: Path, obedient: Weights) -> None:
    policy = fresh(world, obedient)
    actions = action_ids(policy)
    ids = policy.template.insert_hint(context(policy, 3), "a5 right")
    with policy.sampling():
        hinted = policy.score([ScoreRow((*ids, actions[0]), ((len(ids), len(ids) + 1),))]).softmax(-1)[0]
    assert hinted[actions[5]] > 0.9
    assert skill(policy) == pytest.approx(1 / TASKS, abs=0.02)


def test_hints_that_name_the_right_action_are_learned_by_the_model_without_hints(
    world: Path, obedient: Weights
) -> None:
    learned = train(fresh(world, obedient), distillation(world, Oracle(names_the_right_action)))
    print(f"hero {learned:.3f}")
    assert learned >= 0.9


@pytest.mark.parametrize("divergence", [ForwardKL(), ReverseKL()])
def test_other_divergences_teach_the_same(world: Path, obedient: Weights, divergence: DistillationLoss) -> None:
    objective = distillation(world, Oracle(names_the_right_action))
    objective.divergence = divergence
    assert train(fresh(world, obedient), objective) >= 0.85


def test_feedback_that_says_only_right_or_wrong_teaches_a_little(world: Path, obedient: Weights) -> None:
    learned = train(fresh(world, obedient), distillation(world, Oracle(says_right_or_wrong)))
    print(f"feedback only {learned:.3f}")
    assert 1 / TASKS + 0.01 < learned < 0.3


def test_shuffled_diagnoses_teach_nothing(world: Path, obedient: Weights) -> None:
    shuffled = ShuffledReflector(Oracle(names_the_right_action))
    learned = train(fresh(world, obedient), distillation(world, shuffled))
    print(f"shuffled {learned:.3f}")
    assert learned <= 0.10


def test_grpo_on_as_many_samples_learns_less_than_hindsight_and_more_than_feedback(
    world: Path, obedient: Weights
) -> None:
    learned = train(fresh(world, obedient), GRPO(), group_size=4)
    print(f"grpo {learned:.3f}")
    assert 0.3 < learned < 0.9


@pytest.mark.slow
def test_a_frozen_teacher_survives_300_updates_in_which_a_live_one_decays(world: Path, obedient: Weights) -> None:
    def after_300_updates(weights: TeacherWeights) -> float:
        objective = distillation(world, Oracle(names_the_right_action))
        objective.weights = weights
        return train(fresh(world, obedient), objective, updates=300)

    initial, live = after_300_updates(InitialWeights()), after_300_updates(LiveWeights())
    print(f"initial {initial:.3f}, live {live:.3f}")
    assert initial >= 0.95
    assert live <= 0.5
