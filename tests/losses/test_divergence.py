"""Every divergence against its plain definition, on every support and with every kind of clipping."""

import itertools
import math

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from hero_pl.errors import ConfigError, TokenAlignmentError
from hero_pl.losses import (
    DistillationLoss,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
    VocabularyDivergence,
)
from hero_pl.losses.divergence import mixture_log_ratios

DIVERGENCES = {
    "forward_kl": ForwardKL,
    "reverse_kl": ReverseKL,
    "jsd_0.5": JensenShannon,
    "jsd_0.1": lambda **options: JensenShannon(beta=0.1, **options),
    "jsd_0.9_rescaled": lambda **options: JensenShannon(beta=0.9, rescale=True, **options),
    "skew_forward_kl": SkewForwardKL,
    "skew_reverse_kl": lambda **options: SkewReverseKL(alpha=0.3, **options),
}
SUPPORTS = [("full", True), *itertools.product(("student", "teacher", "union"), (True, False))]


def kl(a: Tensor, b: Tensor) -> Tensor:
    return a * (a / b).log()


def plain_summands(name: str, q: Tensor, p: Tensor) -> Tensor:
    """The definitions, written with probabilities."""
    match name:
        case "forward_kl":
            return kl(p, q)
        case "reverse_kl":
            return kl(q, p)
        case "skew_forward_kl":
            return kl(p, 0.1 * p + 0.9 * q)
        case "skew_reverse_kl":
            return kl(q, 0.7 * p + 0.3 * q)
    beta = float(name.split("_")[1])
    m = (1 - beta) * q + beta * p
    scale = 1 / (beta * (1 - beta)) if name.endswith("rescaled") else 1.0
    return scale * ((1 - beta) * kl(q, m) + beta * kl(p, m))


def plain_buckets(q: Tensor, p: Tensor, support: str, k: int, tail: bool) -> tuple[Tensor, Tensor]:
    """Buckets of one token, by Python sets."""
    if support == "full":
        return q, p
    chosen: set[int] = set()
    if support in ("student", "union"):
        chosen |= set(q.topk(k).indices.tolist())
    if support in ("teacher", "union"):
        chosen |= set(p.topk(k).indices.tolist())
    index = torch.tensor(sorted(chosen))
    if tail:
        return tuple(torch.cat([side[index], 1 - side[index].sum(0, keepdim=True)]) for side in (q, p))
    return tuple(side[index] / side[index].sum() for side in (q, p))


def logits(seed: int = 0, tokens: int = 4, vocab: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student = 1.5 * torch.randn(tokens, vocab, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), student.detach() + torch.randn(
        tokens, vocab, generator=generator, dtype=torch.float64
    )


@pytest.mark.parametrize(("support", "tail"), SUPPORTS)
@pytest.mark.parametrize("clip_mode", ["none", "token", "pointwise"])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_value_and_gradient_match_the_plain_definition(name: str, support: str, tail: bool, clip_mode: str) -> None:
    student, teacher = logits()
    clip = 0.04 if clip_mode == "pointwise" else 0.15
    loss = DIVERGENCES[name](support=support, top_k=3, tail=tail, clip_mode=clip_mode, clip=clip)
    per_token = loss(student, teacher)
    weights = torch.arange(1.0, len(student) + 1, dtype=torch.float64)
    (weights * per_token).sum().backward()
    gradient, student.grad = student.grad, None

    expected = []
    for z, t in zip(student, teacher, strict=True):
        q, p = plain_buckets(z.softmax(-1), t.softmax(-1), support, 3, tail)
        summands = plain_summands(name, q, p)
        if clip_mode == "pointwise":
            summands = summands.clamp(max=clip)
        total = summands.sum()
        expected.append(total.clamp(max=clip) if clip_mode == "token" else total)
    (weights * torch.stack(expected)).sum().backward()
    torch.testing.assert_close(per_token, torch.stack(expected))
    torch.testing.assert_close(gradient, student.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("clip_mode", ["none", "pointwise"])
def test_gradient_matches_finite_differences(name: str, clip_mode: str) -> None:
    student, teacher = logits(seed=3, tokens=2, vocab=5)
    loss = DIVERGENCES[name](support="union", top_k=2, clip_mode=clip_mode)
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher), (student,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("support", "tail"), SUPPORTS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_equal_logits_give_exactly_zero_value_and_gradient(
    name: str, support: str, tail: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    student = (8 * torch.randn(5, 300)).to(dtype).requires_grad_()
    for clip_mode in ("none", "token", "pointwise"):
        per_token = DIVERGENCES[name](support=support, top_k=20, tail=tail, clip_mode=clip_mode)(
            student, student.detach().clone()
        )
        (grad,) = torch.autograd.grad(per_token.sum(), student)
        assert torch.equal(per_token, torch.zeros_like(per_token))
        assert not grad.any()


@pytest.mark.parametrize(("support", "tail"), SUPPORTS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_bug_11_opposite_logits_of_eighty_stay_finite_in_float32(name: str, support: str, tail: bool) -> None:
    sign = torch.where(torch.rand(6, 40, generator=torch.Generator().manual_seed(2)) < 0.5, -1.0, 1.0)
    student = (80 * sign).requires_grad_()
    per_token = DIVERGENCES[name](support=support, top_k=10, tail=tail)(student, -80 * sign)
    per_token.sum().backward()
    assert per_token.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_bug_11_jensen_shannon_never_exceeds_ln_2() -> None:
    student = torch.tensor([[80.0, -80.0], [80.0, 0.0], [0.0, 0.0]])
    per_token = JensenShannon()(student, student.flip(-1))
    assert per_token.max().item() == pytest.approx(math.log(2), abs=1e-7)
    assert per_token.tolist()[2] == 0.0


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_token_that_both_sides_exclude_changes_nothing(name: str) -> None:
    student, teacher = logits(seed=4)
    padding = torch.full((len(student), 3), -torch.inf, dtype=torch.float64)
    loss = DIVERGENCES[name]()
    padded = loss(torch.cat([student, padding], -1), torch.cat([teacher, padding], -1))
    torch.testing.assert_close(padded, loss(student, teacher))
    padded.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_token_that_only_one_side_excludes_stays_finite() -> None:
    student = torch.zeros(1, 3, requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0, -torch.inf]])
    for loss in (ForwardKL(), ReverseKL(), JensenShannon()):
        (grad,) = torch.autograd.grad(loss(student, teacher).sum() + loss(teacher, student.detach()).sum(), student)
        assert grad.isfinite().all()


@pytest.mark.parametrize(("support", "tail"), SUPPORTS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_bug_855_logits_that_are_nan_give_a_loss_and_a_gradient_that_are_nan(
    name: str, support: str, tail: bool
) -> None:
    sound, broken = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, math.nan]])
    for clip_mode, sides in itertools.product(("none", "token", "pointwise"), ((sound, broken), (broken, sound))):
        student = sides[0].clone().requires_grad_()
        per_token = DIVERGENCES[name](support=support, top_k=2, tail=tail, clip_mode=clip_mode)(student, sides[1])
        (gradient,) = torch.autograd.grad(per_token.sum(), student)
        assert per_token.isnan().tolist() == gradient.isnan().any(-1).tolist() == [False, True]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_bug_02_teacher_receives_no_gradient(name: str) -> None:
    student, teacher = logits()
    teacher.requires_grad_()
    for support in ("full", "union"):
        DIVERGENCES[name](support=support, top_k=3)(student, teacher).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_bug_10_forward_and_reverse_are_not_swapped() -> None:
    # q = (1/2, 1/2), p = (3/4, 1/4)
    student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert ForwardKL()(student, teacher).item() == pytest.approx(forward, rel=1e-6)
    assert ReverseKL()(student, teacher).item() == pytest.approx(reverse, rel=1e-6)


def test_bug_37_pointwise_clipping_goes_negative_and_says_so() -> None:
    # q = (1/2, 1/2), p = (3/4, 1/4): summands 3/4 ln 3/2 = 0.304 (capped at 0.05) and 1/4 ln 1/2 = -0.173
    student, teacher = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
    loss = ForwardKL(clip_mode="pointwise", clip=0.05)
    assert loss(student, teacher).item() == pytest.approx(0.05 + 0.25 * math.log(0.5), rel=1e-6)
    assert float(loss.diagnostics["clip/negative_fraction"]) == 1.0
    assert ForwardKL(clip_mode="token", clip=0.05)(student, teacher).item() == pytest.approx(0.05)


def test_a_token_above_the_cap_has_no_gradient() -> None:
    student = torch.zeros(2, 2, requires_grad=True)
    teacher = torch.tensor([[9.0, 0.0], [0.1, 0.0]])
    loss = ForwardKL(clip_mode="token", clip=0.1)
    loss(student, teacher).sum().backward()
    assert student.grad is not None
    assert student.grad[0].tolist() == [0.0, 0.0]
    assert student.grad[1].abs().sum() > 0
    assert float(loss.diagnostics["clip/capped_fraction"]) == 0.5


def test_any_leading_dimensions_are_kept() -> None:
    student, teacher = logits(tokens=6)
    flat = JensenShannon()(student, teacher)
    assert torch.equal(JensenShannon()(student.view(1, 2, 3, -1), teacher.view(1, 2, 3, -1)).flatten(), flat)
    assert JensenShannon()(student[:0], teacher[:0]).shape == (0,)


def test_low_precision_logits_are_raised_and_double_stays() -> None:
    student, teacher = logits()
    assert JensenShannon()(student.bfloat16(), teacher.bfloat16()).dtype == torch.float32
    assert JensenShannon()(student, teacher).dtype == torch.float64


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(TokenAlignmentError, match=r"\(2, 3\).*\(2, 4\)"):
        JensenShannon()(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"support": "both"}, "full, student, teacher, union"),
        ({"clip_mode": "hard"}, "none, token, pointwise"),
        ({"top_k": 0}, "top_k=0"),
        ({"clip": 0.0}, "clip=0.0"),
    ],
)
def test_unusable_options_are_refused_when_the_loss_is_built(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ForwardKL(**options)


def test_mixture_ratios_of_a_huge_gap_keep_their_precision() -> None:
    # q = 1, p = exp(-1000): m = q / 2, so log(m/q) = -ln 2 and log(m/p) = 1000 - ln 2; and the other way round
    m_over_q, m_over_p = mixture_log_ratios(torch.tensor([-1000.0, 1000.0]), 0.5)
    assert m_over_q.tolist() == pytest.approx([-math.log(2), 1000 - math.log(2)])
    assert m_over_p.tolist() == pytest.approx([1000 - math.log(2), -math.log(2)])


def test_a_divergence_of_ones_own_needs_only_its_terms() -> None:
    class SquaredDistance(VocabularyDivergence):
        def terms(self, q: Tensor, p: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
            return (q - p) ** 2, 2 * q * (q - p)

    student, teacher = logits(tokens=2, vocab=4)
    assert torch.autograd.gradcheck(lambda z: SquaredDistance()(z, teacher), (student,))


def test_a_configuration_names_the_class_and_sees_the_shared_options() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loss", type=DistillationLoss)
    parsed = parser.parse_args(["--loss=JensenShannon", "--loss.beta=0.3", "--loss.support=union"])
    options = parsed.loss.init_args
    assert (options.beta, options.support, options.top_k, options.clip_mode) == (0.3, "union", 100, "none")
    assert parser.parse_args(["--loss=GatedSampledToken"]).loss.init_args.sharpness == 5.0
