"""The live teacher runs on the keys and values of the student's own pass: only hints and actions are new."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hero_pl.batch import TokenizedBatch, tokenize
from hero_pl.losses.gates import Contrastive
from hero_pl.objectives.mixed import Credit, Mixed
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.branches import BranchScorer, forwarded_tokens
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import Lora
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.weights import EMAWeights, InitialWeights, LiveWeights, TeacherWeights, TrustRegionWeights
from hero_pl.types import Hint, HintPosition
from tests.policy.test_branches import HOW, QWEN, SHAPES, episode, made, separate


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> HuggingFacePolicy:
    return made(tmp_path_factory.mktemp("bytes"))


def laid_out(policy: Any, turns: Sequence[int] = (4, 1, 3), position: HintPosition | None = None) -> TokenizedBatch:
    trajectories = [episode(policy, count, i) for i, count in enumerate(turns)]
    hints = [[Hint(t.number, f"note {t.number}" * t.number, position=position) for t in e.turns] for e in trajectories]
    return tokenize(trajectories, hints, policy.dialect)


def beside(
    policy: HuggingFacePolicy, batch: TokenizedBatch, scorer: BranchScorer, weights: str = "live"
) -> torch.Tensor:
    """The teacher's logits after the student's pass."""
    assert scorer.borrows(policy), scorer.not_borrowed
    with policy.need_network("test").keeping():
        policy.scores(batch.student)
        with policy.sampling():
            return scorer.score(policy, batch.teacher, weights)


def new_tokens(policy: Any, batch: TokenizedBatch) -> int:
    """``sum(h + a)``: what each row has beyond the conversation before its decision, by hand.

    The message of a hint begins with the same id as the generation prompt, which the student has at that place.
    """
    ends = iter([start for row in batch.student for start, _ in row.spans])
    return sum(len(row.ids) - (next(ends) - len(policy.template.generation_ids) + 1) for row in batch.teacher)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_separate_passes(how: Any, shape: str, tmp_path: Path) -> None:
    policy = made(tmp_path, SHAPES[shape])
    batch, scorer = laid_out(policy), BranchScorer(how)
    want = separate(policy, batch.teacher)
    got = beside(policy, batch, scorer)
    assert scorer.forwarded == new_tokens(policy, batch)
    assert (got - want).abs().max() <= 1e-4
    assert want.abs().max() > 0.3
    assert not got.requires_grad


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("at_once", [1, 300])
def test_passes_of_limited_size_give_the_same(
    how: Any, at_once: int, policy: HuggingFacePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, scorer = laid_out(policy), BranchScorer(how)
    want = beside(policy, batch, scorer)
    monkeypatch.setattr("hero_pl.policy.branches.TOKENS_PER_PASS", at_once)
    assert (beside(policy, batch, scorer) - want).abs().max() <= 1e-4


@pytest.mark.parametrize("how", HOW)
def test_a_row_sees_its_own_conversation_only_as_far_as_it_shares_it(how: Any, policy: HuggingFacePolicy) -> None:
    """A rewritten history has two trunks, and rows of other trajectories are never taken."""
    first, second = episode(policy, 3, 1), episode(policy, 5, 2)
    turns = (*first.turns, *second.turns[3:])
    batch = tokenize(
        [replace(first, turns=turns), second],
        [[Hint(t.number, "note") for t in turns], [Hint(t.number, "other note") for t in second.turns]],
        policy.dialect,
    )
    assert len(batch.student) == 3
    scorer = BranchScorer(how)
    assert (beside(policy, batch, scorer) - separate(policy, batch.teacher)).abs().max() <= 1e-4
    assert scorer.forwarded == new_tokens(policy, batch)


@pytest.mark.parametrize("how", HOW)
def test_a_hint_at_the_beginning_shares_nothing_and_costs_no_more_than_alone(
    how: Any, policy: HuggingFacePolicy
) -> None:
    batch, scorer = laid_out(policy, position="system"), BranchScorer(how)
    assert (beside(policy, batch, scorer) - separate(policy, batch.teacher)).abs().max() <= 1e-4
    assert scorer.forwarded <= forwarded_tokens(batch.teacher)


@pytest.mark.parametrize("how", HOW)
def test_other_weights_never_run_on_the_keys_of_the_live_ones(how: Any, tmp_path: Path) -> None:
    for settings in ({}, {"lora": Lora(rank=2)}):
        policy = made(tmp_path, **settings)  # type: ignore[arg-type]
        policy.keep("initial")
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        batch, scorer = laid_out(policy), BranchScorer(how)
        got = beside(policy, batch, scorer, "initial")
        assert scorer.forwarded == forwarded_tokens(batch.teacher)
        assert (got - separate(policy, batch.teacher, "initial")).abs().max() <= 1e-4
        assert (got - separate(policy, batch.teacher)).abs().max() > 1e-2
        assert (beside(policy, batch, scorer) - separate(policy, batch.teacher)).abs().max() <= 1e-4


def test_nothing_is_kept_outside_of_the_student_pass(policy: HuggingFacePolicy) -> None:
    batch, network = laid_out(policy), policy.need_network("test")
    with network.keeping():
        with policy.sampling():
            policy.scores(batch.student)
        assert network.trunks == []
        policy.scores(batch.student)
        assert network.trunks is not None
        assert [trunk.row for trunk in network.trunks] == list(batch.student)
        assert all(not states.requires_grad for trunk in network.trunks for both in trunk.states for states in both)
    assert network.trunks is None


def test_recomputed_activations_leave_nothing_to_keep_and_that_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = made(tmp_path, QWEN, gradient_checkpointing=True)
    policy.train()
    weights = LiveWeights()
    weights.scorer = BranchScorer()
    batch = laid_out(policy)
    with caplog.at_level(logging.INFO, "hero_pl.policy.branches"):
        for _ in range(2):
            with weights.beside(policy):
                policy.scores(batch.student)
                got = weights.scores(policy, batch.teacher).logits()
    assert [line for line in caplog.messages if "gradient checkpointing" in line] == caplog.messages[-1:]
    assert (got - separate(policy, batch.teacher)).abs().max() <= 1e-4


# -- in training -----------------------------------------------------------------------------------------------------


class Seen:
    """Counts the tokens that go into the network."""

    def __init__(self, policy: HuggingFacePolicy) -> None:
        self.tokens = 0
        network = policy.need_network("test")
        network.model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, module: Any, given: tuple[torch.Tensor, ...], found: Any) -> None:
        self.tokens += given[0].numel()


OBJECTIVES: dict[str, Any] = {
    "hero": lambda **settings: SelfDistillation(ShopRules(), **settings),
    "contrastive": lambda **settings: SelfDistillation(ShopRules(), gate=Contrastive(), **settings),
    "subtract": lambda **settings: SelfDistillation(ShopRules(), scaffold="subtract", **settings),
    "mixed": lambda **settings: Mixed(reflector=ShopRules(), **settings),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_gradient_step_runs_each_conversation_once_and_each_hint_and_action_once(
    name: str, tiny_policy: Any, tiny_data: Any
) -> None:
    policy, data = tiny_policy(), tiny_data(tasks_per_step=1)
    policy.load()
    played = data.collector("train").collect(data.specs(0), policy, data.sampling)
    losses = []
    for scoring in ("separate", "auto"):
        objective = OBJECTIVES[name](teacher=HindsightTeacher(template="short"), teacher_scoring=scoring, probe_turns=0)
        objective.start(policy)
        batch = objective.prepare(played, policy, lambda local: local).batch
        seen = Seen(policy)
        output = objective.loss(policy, batch)
        losses.append(output.loss)
    sides = (batch.teacher, *batch.negative_rows, *batch.scaffold_rows)
    student = sum(len(row.ids) for row in batch.student)
    teacher = int(float(output.metrics["teacher/forwarded_tokens"]))
    assert seen.tokens == student + teacher
    assert teacher == sum(forwarded_tokens(rows, batch.student) for rows in sides)
    if len(sides) == 1:
        assert teacher == new_tokens(policy, batch)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "borrows"),
    [(LiveWeights, True), (TrustRegionWeights, True), (InitialWeights, False), (EMAWeights, False)],
)
def test_only_live_weights_borrow(weights: type[TeacherWeights], borrows: bool, policy: HuggingFacePolicy) -> None:
    objective = SelfDistillation(ShopRules(), weights=weights())
    assert objective.weights.borrows(policy) is borrows
    assert not SelfDistillation(ShopRules(), weights=weights(), teacher_scoring="separate").weights.borrows(policy)


def test_a_teacher_that_speaks_before_the_student_counts_its_own_conversations(
    tiny_policy: Any, tiny_data: Any
) -> None:
    policy, data = tiny_policy(), tiny_data()
    policy.load()
    played = data.collector("train").collect(data.specs(0), policy, data.sampling)
    given: dict[str, Any] = {"teacher": HindsightTeacher(template="short"), "probe_turns": 0}
    objective, plain = Credit(reflector=ShopRules(), **given), SelfDistillation(ShopRules(), **given)
    for one in (objective, plain):
        one.start(policy)
    step = objective.prepare(played, policy, lambda local: local)
    rows = plain.prepare(played, policy, lambda local: local).batch.teacher
    assert float(step.metrics["teacher/forwarded_tokens"]) == forwarded_tokens(rows)


def test_micro_batches_are_as_large_as_what_is_run(policy: HuggingFacePolicy) -> None:
    batch = replace(laid_out(policy, (3, 3)), teacher_shares=True, teacher_borrows=True)
    student = sum(len(row.ids) for row in batch.student)
    whole = student + new_tokens(policy, batch)
    assert [len(list(batch.split(size))) for size in (whole, whole - 1)] == [1, 2]
