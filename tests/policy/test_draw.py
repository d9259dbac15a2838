"""Drawing block by block is the inverse of the cumulative distribution, and never draws what is impossible."""

import numpy as np
import pytest
import torch

from hero_pl.policy.draw import BLOCK, Stream, draw


@pytest.mark.parametrize("vocab", [3, BLOCK, 5 * BLOCK + 7])
def test_a_token_is_the_inverse_of_the_cumulative_distribution(vocab: int) -> None:
    source = torch.Generator().manual_seed(vocab)
    logits = 3 * torch.randn(200, vocab, generator=source)
    uniform = torch.rand(200, generator=source, dtype=torch.double)
    tokens, logprobs = draw(logits, 0.7, uniform)
    log_p = (logits.double() / 0.7).log_softmax(-1)
    below = torch.cat([torch.zeros(200, 1).double(), log_p.exp().cumsum(-1)], 1)
    place = tokens[:, None]
    assert (below.gather(1, place).squeeze(1) <= uniform + 1e-6).all()
    assert (uniform <= below.gather(1, place + 1).squeeze(1) + 1e-6).all()
    torch.testing.assert_close(logprobs.double(), log_p.gather(1, place).squeeze(1), atol=2e-6, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0 - 2.0**-53])
def test_bug_560_a_token_of_probability_0_is_never_drawn(uniform: float) -> None:
    logits = torch.full((3, 4 * BLOCK), -torch.inf)
    logits[0, [BLOCK + 3, BLOCK + 90]] = 0.0
    logits[1, 2 * BLOCK - 1] = -80.0
    logits[2, [5, 3 * BLOCK]] = torch.tensor([0.0, -90.0])
    tokens, logprobs = draw(logits, 1.0, torch.full((3,), uniform, dtype=torch.double))
    assert logits.gather(1, tokens[:, None]).isfinite().all()
    assert logprobs.isfinite().all()


def test_greedy_takes_the_first_of_equal_logits() -> None:
    logits = torch.zeros(2, 3 * BLOCK + 1)
    logits[0, [BLOCK + 7, 2 * BLOCK]] = 1.0
    logits[1, -1] = 2.0
    assert draw(logits, 1.0, None)[0].tolist() == [BLOCK + 7, 3 * BLOCK]


def test_logits_that_are_no_distribution_have_no_finite_log_probability() -> None:
    logits = torch.tensor([[0.0, torch.nan], [-torch.inf, -torch.inf]])
    assert not draw(logits, 1.0, torch.tensor([0.5, 0.5]).double())[1].isfinite().any()


def test_numbers_taken_ahead_are_those_taken_one_by_one() -> None:
    ahead, single = Stream(7), Stream(7)
    got = []
    for used in (3, 0, 5, 1):
        got += ahead.look(6)[:used]
        ahead.skip(used)
    want = []
    for _ in range(9):
        want += single.look(1)
        single.skip(1)
    assert got == want == np.random.Generator(np.random.Philox(key=7)).random(9).tolist()
