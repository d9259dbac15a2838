"""Rows of similar length are scored in one pass, and the scores keep the order of the rows."""

from pathlib import Path

import pytest
import torch

from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.padding import alike
from hero_pl.types import ScoreRow

CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> HuggingFacePolicy:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(folder)
    made = HuggingFacePolicy(config=CONFIG, tokenizer=str(folder))
    made.load()
    return made


def rows_of(*lengths: int) -> list[ScoreRow]:
    return [ScoreRow(tuple(range(i, i + n)), ((2, 3), (n - 2, n))) for i, n in enumerate(lengths)]


def test_rows_of_like_length_are_run_together() -> None:
    assert alike([1000, 30, 990, 980, 40]) == [[0, 2, 3], [1, 4]]


def test_little_padding_costs_less_than_a_pass_of_its_own() -> None:
    assert alike([100, 10, 60]) == [[0, 1, 2]]


def test_a_pass_without_gradients_has_a_bounded_number_of_tokens() -> None:
    assert alike([9, 4, 3, 20, 2], most=27) == [[3], [0, 1, 2], [4]]
    assert alike([50, 50], most=27) == [[0], [1]]  # a row alone is never cut


@pytest.mark.parametrize("gradients", [True, False])
def test_scores_are_those_of_each_row_alone_in_the_order_of_the_rows(policy, gradients, monkeypatch) -> None:
    monkeypatch.setattr("hero_pl.policy.padding.PADDING", 8)
    monkeypatch.setattr("hero_pl.policy.network.TOKENS_PER_PASS", 64)
    rows = rows_of(90, 7, 30, 6, 28, 91)
    passes: list[tuple[int, ...]] = []
    handle = policy.network.model.model.embed_tokens.register_forward_pre_hook(
        lambda _, given: passes.append(tuple(given[0].shape))
    )
    with torch.set_grad_enabled(gradients):
        got = policy.score(rows)
    handle.remove()
    assert sorted(passes) == sorted([(2, 91), (2, 30), (2, 7)] if gradients else [(1, 91), (1, 90), (2, 30), (2, 7)])
    torch.testing.assert_close(got, torch.cat([policy.score([row]) for row in rows]), rtol=0, atol=1e-5)


def test_no_mask_is_made_and_padding_changes_nothing(policy, monkeypatch) -> None:
    monkeypatch.setattr("hero_pl.policy.padding.PADDING", 1000)
    seen: list[set[str]] = []
    base = policy.network.model.model
    handle = base.register_forward_pre_hook(lambda _, __, given: seen.append(set(given)), with_kwargs=True)
    got = policy.score(rows_of(12, 40))
    handle.remove()
    assert all("attention_mask" not in given for given in seen)
    torch.testing.assert_close(got[:3], policy.score(rows_of(12, 40)[:1]), rtol=0, atol=1e-5)
