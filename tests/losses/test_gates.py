"""Gates by hand."""

import math
from dataclasses import replace

import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.losses import (
    Contrastive,
    DistillationLoss,
    Gate,
    GatedSampledToken,
    GateInputs,
    HighEntropy,
    ReverseKL,
    SampledToken,
    Scores,
    SigmoidGap,
    StepDivergence,
    TeacherConfidence,
)
from hero_pl.objectives.self_distillation import SelfDistillation

INPUTS = GateInputs(
    student=Scores(torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], dtype=torch.float64).log()),
    teacher=Scores(torch.tensor([[0.8, 0.2], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64).log()),
    action_ids=torch.tensor([0, 0, 1]),
    turn=torch.tensor([4, 4, 7]),
    divergence=lambda: torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64),
)
GATES = [SigmoidGap(), TeacherConfidence(), StepDivergence(), Contrastive(), HighEntropy()]


def test_sigmoid_gap_endorses_and_softens() -> None:
    # sigmoid(log(p/q)) = p / (p + q)
    assert SigmoidGap()(INPUTS).tolist() == pytest.approx([0.8 / 1.3, 0.5 / 1.4, 0.0])
    # at temperature 1/2: p^2 / (p^2 + q^2)
    assert SigmoidGap(0.5)(INPUTS)[0].item() == pytest.approx(0.64 / 0.89)


def test_an_uncertain_teacher_gets_a_small_weight() -> None:
    by_entropy = TeacherConfidence()(INPUTS)
    h = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert by_entropy.tolist() == pytest.approx([1 - h / math.log(2), 0.0, 1.0])
    assert TeacherConfidence("max_probability")(INPUTS).tolist() == pytest.approx([0.8, 0.5, 1.0])


def test_turns_far_apart_weigh_less_as_a_whole() -> None:
    gate = StepDivergence(scale=0.4)(INPUTS)
    assert gate.tolist() == pytest.approx([math.exp(-0.5), math.exp(-0.5), math.exp(-1.25)])


def test_what_any_hint_does_cancels_in_the_contrast() -> None:
    wrong = torch.tensor([[0.8, 0.2, 0.5], [0.8, 0.4, 0.1]], dtype=torch.float64).log()
    # mean of the wrong ones: 0.8, 0.3, 0.3; true hint: 0.8, 0.5, 0.0
    assert Contrastive()(replace(INPUTS, wrong_hint_log_probs=wrong)).tolist() == pytest.approx([0.5, 0.5 / 0.8, 0.0])
    with pytest.raises(ConfigError, match="shuffled hint"):
        Contrastive()(INPUTS)


def test_only_the_most_uncertain_tokens_are_kept() -> None:
    assert HighEntropy(0.3)(INPUTS).tolist() == [1.0, 0.0, 0.0]
    assert HighEntropy(0.6)(INPUTS).tolist() == [1.0, 0.0, 1.0]
    assert HighEntropy(1.0)(INPUTS).tolist() == [1.0, 1.0, 1.0]


def test_the_least_certain_tokens_are_those_of_each_trajectory() -> None:
    by_trajectory = replace(INPUTS, trajectory=torch.tensor([3, 3, 5]))
    assert HighEntropy(0.3)(by_trajectory).tolist() == [1.0, 0.0, 1.0]  # however the step is cut into micro-batches


@pytest.mark.parametrize("gate", GATES)
def test_gates_are_constants_between_zero_and_one(gate: Gate) -> None:
    torch.manual_seed(0)
    inputs = GateInputs(
        student=Scores((20 * torch.randn(9, 5)).requires_grad_()),
        teacher=Scores(20 * torch.randn(9, 5)),
        action_ids=torch.randint(5, (9,)),
        turn=torch.arange(9) // 3,
        divergence=lambda: torch.rand(9, requires_grad=True),
        wrong_hint_log_probs=torch.randn(2, 9),
    )
    factor = gate(inputs)
    assert factor.shape == (9,)
    assert not factor.requires_grad
    assert 0.0 <= factor.min() <= factor.max() <= 1.0


@pytest.mark.parametrize("gate", GATES)
def test_gates_accept_a_call_without_tokens(gate: Gate) -> None:
    none = torch.zeros(0)
    side = Scores(torch.zeros(0, 5))
    inputs = GateInputs(side, side, none.long(), none.long(), lambda: none, torch.zeros(1, 0))
    assert gate(inputs).shape == (0,)


@pytest.mark.parametrize(
    "build",
    [
        lambda: SigmoidGap(0.0),
        lambda: TeacherConfidence("median"),
        lambda: StepDivergence(-1.0),
        lambda: Contrastive(math.nan),
        lambda: HighEntropy(0.0),
    ],
)
def test_unusable_options_are_refused(build) -> None:
    with pytest.raises(ConfigError):
        build()


@pytest.mark.parametrize("loss", [SampledToken(), GatedSampledToken()])
def test_bug_765_a_gate_of_the_divergence_refuses_a_loss_whose_value_is_none(loss: DistillationLoss) -> None:
    with pytest.raises(ConfigError, match=rf"the value of {type(loss).__name__} is none.*ReverseKL"):
        SelfDistillation(divergence=loss, gate=StepDivergence())
    SelfDistillation(divergence=ReverseKL(), gate=StepDivergence())
    SelfDistillation(divergence=loss, gate=SigmoidGap())


def test_bug_766_a_comparison_of_hints_refuses_a_scaffold_that_is_taken_out_of_one_of_them() -> None:
    with pytest.raises(ConfigError, match=r"scaffold=subtract takes .* out of the first only.*Set scaffold to keep"):
        SelfDistillation(gate=Contrastive(), scaffold="subtract")
    SelfDistillation(gate=SigmoidGap(), scaffold="subtract")
