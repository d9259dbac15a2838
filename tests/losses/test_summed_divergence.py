"""The chunked linear divergence equals the plain one, in value, gradients and diagnostics."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hero_pl.errors import TokenAlignmentError
from hero_pl.losses import (
    DistillationLoss,
    ForwardKL,
    Gate,
    HighEntropy,
    ImportanceCorrection,
    JensenShannon,
    ReverseKL,
    SampledToken,
    Scores,
    SequenceMask,
    SequenceRatioMask,
    SkewForwardKL,
    SkewReverseKL,
    StepDivergence,
    SummedDivergence,
    Weighing,
    at_temperature,
    normalized_sum,
    summed_divergence,
)
from hero_pl.objectives.self_distillation import _Weighing
from hero_pl.scalars import measured

LOSSES: dict[str, Callable[[], DistillationLoss]] = {
    "jsd": JensenShannon,
    "jsd_rescaled": lambda: JensenShannon(0.2, rescale=True),
    "forward": ForwardKL,
    "reverse": ReverseKL,
    "skew_forward": SkewForwardKL,
    "skew_reverse": SkewReverseKL,
    "token_clip": lambda: ForwardKL(clip_mode="token", clip=0.5),
    "pointwise_clip": lambda: ForwardKL(clip_mode="pointwise", clip=0.02),
    "union": lambda: JensenShannon(support="union", top_k=5),
    "student_renormalized": lambda: ReverseKL(support="student", top_k=7, tail=False, clip_mode="token", clip=0.5),
    "sampled": SampledToken,
}


def inputs(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens, vocab, width = 23, 41, 8
    return {
        "student_hidden": torch.randn(tokens, width, generator=generator, dtype=dtype).requires_grad_(),
        "student_head_weight": torch.randn(vocab, width, generator=generator, dtype=dtype).requires_grad_(),
        "teacher_hidden": torch.randn(tokens, 6, generator=generator, dtype=dtype).requires_grad_(),
        "teacher_head_weight": torch.randn(vocab, 6, generator=generator, dtype=dtype).requires_grad_(),
        "coefficients": torch.rand(tokens, generator=generator, dtype=dtype),
        "action_ids": torch.randint(vocab, (tokens,), generator=generator),
    }


def in_parts(
    loss: DistillationLoss,
    given: dict[str, Tensor],
    at_once: int = 64,
    temperature: float = 1.0,
    weighing: Weighing | None = None,
) -> SummedDivergence:
    student, teacher = (
        Scores(given[f"{side}_hidden"], given[f"{side}_head_weight"], at_once, temperature)
        for side in ("student", "teacher")
    )
    return summed_divergence(loss, student, teacher, given["coefficients"], given["action_ids"], weighing)


def plain(loss: DistillationLoss, given: dict[str, Tensor], temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    sides = (given[f"{side}_hidden"] @ given[f"{side}_head_weight"].T for side in ("student", "teacher"))
    per_token = loss(*(at_temperature(side, temperature) for side in sides), given["action_ids"])
    return normalized_sum(given["coefficients"], per_token), per_token


@pytest.mark.parametrize("chunk", [1, 8, 23, 64])
@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_plain_path(name: str, chunk: int) -> None:
    loss, given = LOSSES[name](), inputs()
    expected, expected_per_token = plain(loss, given)
    diagnostics = loss.diagnostics
    trained = given["student_hidden"], given["student_head_weight"]
    expected_gradients = torch.autograd.grad(3.0 * expected, trained)
    actual = in_parts(loss, given, chunk)
    torch.testing.assert_close(actual.loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(actual.per_token, expected_per_token.detach(), rtol=1e-5, atol=1e-6)
    (3.0 * actual.loss).backward()
    for tensor, gradient in zip(trained, expected_gradients, strict=True):
        assert tensor.grad is not None
        assert (tensor.grad - gradient).norm() <= 1e-5 * gradient.norm()
    assert loss.diagnostics.keys() == diagnostics.keys()
    assert measured(loss.diagnostics) == pytest.approx(measured(diagnostics), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", ["reverse", "jsd_rescaled", "union", "sampled"])
def test_bug_86_the_temperature_divides_logits_and_gradient_of_every_chunk(name: str) -> None:
    given = inputs(torch.float64)
    trained = given["student_hidden"], given["student_head_weight"]
    expected, _ = plain(LOSSES[name](), given, temperature=0.7)
    expected_gradients = torch.autograd.grad(expected, trained)
    actual = in_parts(LOSSES[name](), given, 8, 0.7)
    torch.testing.assert_close(actual.loss, expected)
    for gradient, wanted in zip(torch.autograd.grad(actual.loss, trained), expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted)
    for side, log_probs in (("student", actual.student_log_probs), ("teacher", actual.teacher_log_probs)):
        logits = (given[f"{side}_hidden"] @ given[f"{side}_head_weight"].T).detach() / 0.7
        torch.testing.assert_close(log_probs, logits.log_softmax(-1)[torch.arange(23), given["action_ids"]])


def test_bug_02_the_teacher_receives_no_gradient() -> None:
    given = inputs()
    in_parts(JensenShannon(), given).loss.backward()
    assert given["teacher_hidden"].grad is None
    assert given["teacher_head_weight"].grad is None


def test_a_head_shared_by_both_sides_learns_from_the_student_only() -> None:
    given = inputs(torch.float64)
    head = given["student_head_weight"]
    given["teacher_hidden"] = torch.randn(23, 8, dtype=torch.float64)
    given["teacher_head_weight"] = head
    in_parts(JensenShannon(), given, 4).loss.backward()
    fixed = {**given, "teacher_head_weight": head.detach()}
    (expected,) = torch.autograd.grad(plain(JensenShannon(), fixed)[0], head)
    torch.testing.assert_close(head.grad, expected)


def test_gradients_match_finite_differences() -> None:
    given = inputs(torch.float64)

    def total(hidden: Tensor, head: Tensor) -> Tensor:
        moved = {**given, "student_hidden": hidden, "student_head_weight": head}
        return in_parts(JensenShannon(0.3), moved, 7).loss

    assert torch.autograd.gradcheck(total, (given["student_hidden"], given["student_head_weight"]))


def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_still_do() -> None:
    given = inputs()
    given["student_head_weight"].requires_grad_(False)
    in_parts(ForwardKL(), given).loss.backward()
    assert given["student_head_weight"].grad is None
    assert given["student_hidden"].grad is not None


def test_equal_sides_have_exactly_zero_loss_and_gradient() -> None:
    given = inputs()
    given["teacher_hidden"], given["teacher_head_weight"] = given["student_hidden"], given["student_head_weight"]
    actual = in_parts(JensenShannon(), given, 5)
    actual.loss.backward()
    assert actual.loss.item() == 0.0
    assert given["student_hidden"].grad is not None
    assert not given["student_hidden"].grad.any()


def test_bug_18_no_tokens_give_zero_on_the_graph() -> None:
    given = {name: tensor if "weight" in name else tensor[:0] for name, tensor in inputs().items()}
    head = given["student_head_weight"]
    actual = in_parts(JensenShannon(), given)
    actual.loss.backward()
    assert actual.loss.item() == 0.0
    assert head.grad is not None
    assert not head.grad.any()


def test_logits_exist_for_one_chunk_only() -> None:
    seen: list[int] = []

    class Counting(JensenShannon):
        def terms(self, q: Tensor, p: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(q.shape[0])
            return super().terms(q, p, gap)

    in_parts(Counting(), inputs(), 10)
    assert seen == [10, 10, 3]


def test_bfloat16_heads_keep_their_dtype_and_small_contributions() -> None:
    given = inputs(torch.bfloat16)
    exact = {
        name: tensor.detach().double().requires_grad_() if tensor.is_floating_point() else tensor
        for name, tensor in given.items()
    }
    in_parts(JensenShannon(), given, 1).loss.backward()
    (expected,) = torch.autograd.grad(plain(JensenShannon(), exact)[0], exact["student_head_weight"])
    gradient = given["student_head_weight"].grad
    assert gradient is not None
    assert gradient.dtype == torch.bfloat16
    assert (gradient.double() - expected).norm() <= 0.02 * expected.norm()


def test_what_does_not_fit_is_refused() -> None:
    given = inputs()
    with pytest.raises(TokenAlignmentError, match="23 tokens, teacher has 22"):
        in_parts(JensenShannon(), {**given, "teacher_hidden": given["teacher_hidden"][1:]})
    with pytest.raises(TokenAlignmentError, match="41 ids, the teacher's has 40"):
        in_parts(JensenShannon(), {**given, "teacher_head_weight": given["teacher_head_weight"][1:]})


class Doubtful:
    """Weighs a token by its divergence and by what both sides think of the sampled id."""

    def __init__(self, ids: Tensor, by_token: bool) -> None:
        self.ids, self.by_token = ids, by_token
        self.calls: list[int] = []

    def weigh(self, student: Scores, teacher: Scores, divergence: Callable[[], Tensor], part: slice) -> Tensor:
        self.calls.append(len(student))
        gap = teacher.of_actions(self.ids[part]) - student.of_actions(self.ids[part])
        return gap.sigmoid() / (1.0 + divergence().square())


@pytest.mark.parametrize("by_token", [True, False])
@pytest.mark.parametrize("name", ["jsd", "union", "sampled"])
def test_weights_that_depend_on_the_scores_multiply_the_coefficients(name: str, by_token: bool) -> None:
    given = inputs(torch.float64)
    trained = given["student_hidden"], given["student_head_weight"]
    sides = [(given[f"{side}_hidden"] @ given[f"{side}_head_weight"].T).detach() for side in ("student", "teacher")]
    values = LOSSES[name]()(*sides, given["action_ids"])
    factor = Doubtful(given["action_ids"], True).weigh(*map(Scores, sides), lambda: values, slice(None))
    weighted = {**given, "coefficients": given["coefficients"] * factor}
    want = torch.autograd.grad(plain(LOSSES[name](), weighted)[0], trained)
    whole = Scores(given["student_hidden"] @ given["student_head_weight"].T)
    for at_once in (0, 5, 64, None):
        weighing = Doubtful(given["action_ids"], by_token)
        if at_once is None:  # from all logits
            teacher = Scores(sides[1])
            rest = (given["coefficients"], given["action_ids"], weighing)
            found = summed_divergence(LOSSES[name](), whole, teacher, *rest)
        else:
            found = in_parts(LOSSES[name](), given, at_once, weighing=weighing)
        torch.testing.assert_close(found.loss, (weighted["coefficients"] * values).sum())
        for gradient, wanted in zip(torch.autograd.grad(found.loss, trained, retain_graph=True), want, strict=True):
            torch.testing.assert_close(gradient, wanted)
        assert weighing.calls == ([5, 5, 5, 5, 3] if by_token and at_once == 5 else [23])


NEED_ALL_TOKENS: dict[str, tuple[Gate | None, ImportanceCorrection | None]] = {
    "StepDivergence": (StepDivergence(0.05), None),
    "HighEntropy": (HighEntropy(0.2), None),
    "SequenceMask": (None, SequenceMask(0.9, 1.1)),
    "SequenceRatioMask": (None, SequenceRatioMask(3.0)),
}


@pytest.mark.parametrize("name", NEED_ALL_TOKENS)
def test_bug_740_weights_of_turns_and_trajectories_do_not_depend_on_blocks_of_tokens(name: str) -> None:
    vocabulary, width, tokens = 1 << 15, 6, 48  # 2 turns of 12 tokens in each of 2 trajectories, 8 tokens per block
    module = sys.modules["hero_pl.losses.summed_divergence"]
    assert tokens > 2 * module.IN_CACHE // vocabulary
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).requires_grad_()
    head = torch.randn(vocabulary, width, generator=generator)
    hinted = hidden.detach() + 0.3 * torch.randn(tokens, width, generator=generator)
    ids = torch.randint(vocabulary, (tokens,), generator=generator)
    turn = torch.arange(tokens) // 12
    # the first trajectory has moved by 0 on average, but not its parts; the second by 0.3 everywhere
    drift = torch.cat([torch.linspace(-0.5, 0.5, 24), torch.full((24,), 0.3)])
    micro: Any = SimpleNamespace(
        action_ids=ids,
        coefficient=torch.full((tokens,), 1.0 / tokens),
        turn=turn,
        trajectory=turn // 2,
        rollout_logprobs=(Scores(hidden, head).of_actions(ids) - drift).detach(),
    )
    gate, correction = NEED_ALL_TOKENS[name]
    weighing = _Weighing(gate, correction, micro, None)

    def found(student: Scores, teacher: Scores) -> tuple[Tensor, Tensor]:
        result = summed_divergence(JensenShannon(), student, teacher, micro.coefficient, ids, weighing)
        return result.loss.detach(), torch.autograd.grad(result.loss, hidden)[0]

    want = found(Scores(hidden @ head.T), Scores(hinted @ head.T))
    unweighted = summed_divergence(JensenShannon(), Scores(hidden, head), Scores(hinted, head), micro.coefficient, ids)
    assert 0.0 < float(want[0]) < 0.9 * float(unweighted.loss.detach())  # the weights matter
    for at_once in (0, 5, 16, tokens, 64):
        got = found(Scores(hidden, head, at_once), Scores(hinted, head, at_once))
        for one, other in zip(got, want, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_tokens_compared_in_blocks_of_the_cache_give_the_same(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(torch.float64)
    trained = given["student_hidden"], given["student_head_weight"]
    want, loss = in_parts(LOSSES["jsd"](), given, 5), LOSSES["jsd"]()
    size = tokens * len(given["student_head_weight"])
    monkeypatch.setattr(sys.modules["hero_pl.losses.summed_divergence"], "IN_CACHE", size)
    weighing = Doubtful(given["action_ids"], True)
    weighing.weigh = lambda student, *_: weighing.calls.append(len(student)) or torch.ones(len(student))
    found = in_parts(loss, given, 5, weighing=weighing)
    assert max(weighing.calls) == tokens
    assert sum(weighing.calls) == 23
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)
    for one, other in zip(
        torch.autograd.grad(found.loss, trained), torch.autograd.grad(want.loss, trained), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)
    assert loss.diagnostics["loss/max_token"].value == float(found.per_token.max())


def test_under_autocast_the_gradient_of_the_head_is_not_rounded_to_the_type_of_the_logits() -> None:
    given = inputs()
    hidden, head = given["student_hidden"], given["student_head_weight"]
    with torch.autocast("cpu", torch.bfloat16):
        found = in_parts(LOSSES["jsd"](), given, 5)
        logits = [given[f"{side}_hidden"] @ given[f"{side}_head_weight"].T for side in ("student", "teacher")]
    (gradient,) = torch.autograd.grad(found.loss, head)
    assert logits[0].dtype == torch.bfloat16
    student, teacher = (one.detach().float() for one in logits)
    student.requires_grad_()
    total = (given["coefficients"] * LOSSES["jsd"]()(student, teacher, given["action_ids"])).sum()
    (slope,) = torch.autograd.grad(total, student)
    torch.testing.assert_close(gradient, slope.T @ hidden.detach(), rtol=1e-4, atol=1e-7)


class Softmaxes(TorchDispatchMode):
    """Counts the rows of which log-probabilities are made, and the multiplications of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.rows += found.shape[0] if func is torch.ops.aten._log_softmax.default else 0
        self.products += func in (torch.ops.aten.mm.default, torch.ops.aten.mm.out, torch.ops.aten.addmm_.default)
        return found


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("name", ["jsd", "union", "sampled"])
def test_both_sides_are_projected_and_normalized_once_for_loss_gradient_records_and_weights(
    name: str, weighed: bool
) -> None:
    given = inputs()
    with Softmaxes() as seen:
        weighing = Doubtful(given["action_ids"], True) if weighed else None
        in_parts(LOSSES[name](), given, 5, weighing=weighing).loss.backward()
    assert seen.rows == 2 * 23
    assert seen.products == 4 * 5  # per part: both sides, and the gradients of hidden states and head


@pytest.mark.parametrize("name", ["jsd", "union", "sampled"])
def test_all_logits_are_normalized_once(name: str) -> None:
    given = inputs()
    student, teacher = (given[f"{side}_hidden"] @ given[f"{side}_head_weight"].T for side in ("student", "teacher"))
    with Softmaxes() as seen:
        weighing = Doubtful(given["action_ids"], True)
        rest = (given["coefficients"], given["action_ids"], weighing)
        summed_divergence(LOSSES[name](), Scores(student), Scores(teacher), *rest).loss.backward()
    assert seen.rows == 2 * 23
