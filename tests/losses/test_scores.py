"""Log-probabilities from hidden states, a few tokens at a time, are those of all logits."""

import pytest
import torch
from torch import Tensor

from hero_pl.errors import TokenAlignmentError
from hero_pl.losses import Scores, action_log_probabilities
from hero_pl.losses.gates import entropy

TOKENS, VOCAB, WIDTH = 23, 41, 8
IDS = torch.randint(VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(1))


def sides(at_once: int, dtype: torch.dtype = torch.float64, temperature: float = 1.0) -> tuple[Scores, Tensor]:
    """Scores that are computed in parts, and the same logits in one tensor."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    head = torch.randn(VOCAB, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    return Scores(hidden, head, at_once, temperature), hidden @ head.T / temperature


@pytest.mark.parametrize("at_once", [0, 1, 5, 22, 23, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_and_their_gradients(at_once: int, temperature: float) -> None:
    scores, logits = sides(at_once, temperature=temperature)
    weight = torch.linspace(-1.0, 2.0, TOKENS, dtype=torch.float64)
    want = action_log_probabilities(logits, IDS)
    got, best = scores.of_actions_and_best(IDS)
    torch.testing.assert_close(got, want)
    assert torch.equal(best, logits.argmax(-1))
    trained = (scores.values, scores.head)
    for one, other in zip(
        torch.autograd.grad((weight * got.exp()).sum(), trained),
        torch.autograd.grad((weight * want.exp()).sum(), trained),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_gradients_match_finite_differences() -> None:
    scores, _ = sides(5)
    assert torch.autograd.gradcheck(
        lambda hidden, head: Scores(hidden, head, 5, 0.7).of_actions(IDS), (scores.values, scores.head)
    )


def test_logits_of_a_few_tokens_only_exist_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    inner = Scores.logits

    def logits(self: Scores, part: slice = slice(None)) -> Tensor:
        actual = inner(self, part)
        seen.append(actual.shape[0])
        return actual

    monkeypatch.setattr(Scores, "logits", logits)
    scores, _ = sides(5)
    scores.of_actions(IDS).sum().backward()
    scores.measure(entropy)
    assert seen == [5, 5, 5, 5, 3] * 3


def test_a_frozen_head_gets_no_gradient() -> None:
    scores, _ = sides(5)
    assert scores.head is not None
    frozen = Scores(scores.values, scores.head.detach(), 5)
    frozen.of_actions(IDS).sum().backward()
    assert scores.values.grad is not None
    assert scores.head.grad is None


def test_one_number_per_token_in_parts() -> None:
    scores, logits = sides(5, temperature=2.0)
    actual = scores.measure(entropy)
    torch.testing.assert_close(actual, entropy(logits.log_softmax(-1)))
    assert not actual.requires_grad
    assert scores.at(torch.zeros(TOKENS, dtype=torch.bool)).measure(entropy).shape == (0,)


def test_reduced_precision_is_raised_before_the_softmax() -> None:
    scores, logits = sides(5, torch.bfloat16)
    got = scores.of_actions(IDS)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, action_log_probabilities(logits, IDS), rtol=0, atol=1e-3)
    got.sum().backward()
    assert scores.head is not None
    assert scores.head.grad is not None
    assert scores.head.grad.dtype == torch.bfloat16


def test_one_id_per_token() -> None:
    with pytest.raises(TokenAlignmentError, match="23 tokens"):
        sides(5)[0].of_actions(IDS[1:])
