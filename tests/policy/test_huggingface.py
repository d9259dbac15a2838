"""Sampling and scoring agree, frozen copies do not change, and adapters are restored."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import Lora
from hero_pl.policy.sampling import Sampling
from hero_pl.teacher.weights import InitialWeights
from hero_pl.types import FinishReason, SampledAction, ScoreRow

TINY: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bytes")
    byte_tokenizer().save_pretrained(path)
    return path


def tiny(folder: Path, **settings: Any) -> HuggingFacePolicy:
    policy = HuggingFacePolicy(config=TINY, tokenizer=str(folder), **settings)
    policy.load()
    return policy


@pytest.fixture(scope="module")
def policy(folder: Path) -> HuggingFacePolicy:
    return tiny(folder)


def row_of(prompt: Sequence[int], action: SampledAction) -> ScoreRow:
    return ScoreRow((*prompt, *action.ids), ((len(prompt), len(prompt) + len(action.ids)),))


def logprobs_of(policy: HuggingFacePolicy, prompt: Sequence[int], action: SampledAction, temperature: float) -> Any:
    """Log-probabilities from a plain forward pass over one row, without cache, padding or batch."""
    ids = torch.tensor([[*prompt, *action.ids]])
    with policy.sampling():
        logits = policy.network.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(action.ids)[:, None])[:, 0]


Replies = dict[int, list[tuple[tuple[int, ...], SampledAction]]]


def play(policy: HuggingFacePolicy, openings: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> Replies:
    """Three turns; conversation ``i`` is over after ``3 - i % 3`` of them; observations of unequal length."""
    template = policy.template
    prompts = {i: template.first_prompt("", text) for i, text in enumerate(openings)}
    replies: Replies = {i: [] for i in prompts}
    with policy.sampling():
        session = policy.sampler.open(policy, sampling, seeds)
        for turn in range(3):
            rows = [i for i in prompts if turn < 3 - i % 3]
            for i, action in zip(rows, session.act(rows, [prompts[i] for i in rows]), strict=True):
                replies[i].append((prompts[i], action))
                prompts[i] = template.next_prompt(prompts[i], action.ids, f"{'z' * (3 * i)} turn {turn}")
    return replies


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_log_probabilities_equal_unbatched_scoring(policy: HuggingFacePolicy, temperature: float) -> None:
    openings = ["a", "a longer opening", "b", "the longest opening of all of them", "cc", "d"]
    replies = play(policy, openings, range(6), Sampling(temperature, 24))
    assert {len(action.ids) for turns in replies.values() for _, action in turns} != {24}  # some rows ended early
    for turns in replies.values():
        for prompt, action in turns:
            expected = logprobs_of(policy, prompt, action, temperature)
            torch.testing.assert_close(torch.tensor(action.logprobs), expected, atol=1e-5, rtol=0)


def test_a_rewritten_history_is_fed_again_from_its_start(policy: HuggingFacePolicy) -> None:
    first, other = policy.template.first_prompt("", "first, and long"), policy.template.first_prompt("", "other")
    with policy.sampling():
        session = policy.sampler.open(policy, Sampling(1.0, 8), [3, 4])
        session.act([0, 1], [first, first])
        actions = session.act([0, 1], [other, (*first, 65, *policy.template.generation_ids)])
    expected = logprobs_of(policy, other, actions[0], 1.0)
    torch.testing.assert_close(torch.tensor(actions[0].logprobs), expected, atol=1e-5, rtol=0)


def test_an_action_depends_on_its_seed_and_prompt_and_not_on_the_batch(policy: HuggingFacePolicy) -> None:
    openings, seeds = ["a", "somewhat longer", "b", "c"], [11, 12, 13, 14]
    together = play(policy, openings, seeds, Sampling(1.0, 16))
    alone = play(policy, openings[:1], seeds[:1], Sampling(1.0, 16))
    assert [action.ids for _, action in alone[0]] == [action.ids for _, action in together[0]]
    other = play(policy, openings[:1], [99], Sampling(1.0, 16))
    assert other[0][0][1].ids != alone[0][0][1].ids


def test_bug_35_equal_prompts_with_other_seeds_draw_other_actions(policy: HuggingFacePolicy) -> None:
    prompt = policy.template.first_prompt("", "same")
    with policy.sampling():
        drawn = policy.sampler.open(policy, Sampling(1.0, 16), range(8)).act(range(8), [prompt] * 8)
    assert len({action.ids for action in drawn}) == 8


def test_greedy_takes_the_most_probable_token_whatever_the_seed(policy: HuggingFacePolicy) -> None:
    prompt = policy.template.first_prompt("", "same")
    with policy.sampling():
        one, two = policy.sampler.open(policy, Sampling(0.0, 12), [1, 2]).act([0, 1], [prompt] * 2)
        logits = policy.score([row_of(prompt, one)])
    assert one == two
    assert tuple(logits.argmax(-1).tolist()) == one.ids


def test_actions_end_with_the_end_token_or_at_the_limit(policy: HuggingFacePolicy) -> None:
    prompt = policy.template.first_prompt("", "same")
    with policy.sampling():
        drawn = policy.sampler.open(policy, Sampling(1.5, 30), range(64)).act(range(64), [prompt] * 64)
    ends = policy.template.end_ids
    assert {action.finish_reason for action in drawn} == {FinishReason.STOP, FinishReason.LENGTH}
    for action in drawn:
        assert not ends & set(action.ids[:-1])
        assert (action.ids[-1] in ends) == (action.finish_reason is FinishReason.STOP)
        assert len(action.ids) == 30 or action.finish_reason is FinishReason.STOP


def test_bug_01_an_action_token_is_scored_by_the_position_before_it(policy: HuggingFacePolicy) -> None:
    row = ScoreRow(tuple(range(30, 50)), ((4, 7), (12, 20)))
    with policy.sampling():
        logits = policy.network.model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
        torch.testing.assert_close(policy.score([row]), logits[[3, 4, 5, *range(11, 19)]], atol=1e-5, rtol=0)


def test_scoring_does_not_depend_on_padding(policy: HuggingFacePolicy) -> None:
    rows = [ScoreRow(tuple(range(5)), ((2, 5),)), ScoreRow(tuple(range(20, 60)), ((1, 4), (30, 40)))]
    with policy.sampling():
        alone = torch.cat([policy.score([row]) for row in rows])
        torch.testing.assert_close(policy.score(rows), alone, atol=1e-5, rtol=0)
    assert len(alone) == sum(row.scored for row in rows) == 16


def test_frozen_copies_keep_their_weights_and_stay_out_of_parameters_and_state(folder: Path) -> None:
    policy = tiny(folder)
    before = len(list(policy.parameters())), set(policy.state_dict())
    policy.keep("initial")
    row = ScoreRow(tuple(range(9)), ((3, 9),))
    start = policy.score([row]).detach()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05)
    policy.keep("initial")  # a second call must not take the new weights
    assert torch.equal(policy.score([row], "initial"), start)
    assert not torch.equal(policy.score([row]), start)
    assert (len(list(policy.parameters())), set(policy.state_dict())) == before
    assert not policy.score([row], "initial").requires_grad


def test_an_unknown_copy_is_an_error_that_names_it(policy: HuggingFacePolicy) -> None:
    with pytest.raises((ConfigError, PolicyError), match="nothing"):
        policy.score([ScoreRow((1, 2), ((1, 2),))], "nothing")


def trained_adapter(folder: Path) -> HuggingFacePolicy:
    policy = tiny(folder, lora=Lora(rank=2, alpha=4))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    return policy


def test_initial_weights_of_an_adapter_are_the_model_without_it(folder: Path) -> None:
    policy = trained_adapter(folder)
    row = ScoreRow(tuple(range(9)), ((3, 9),))
    InitialWeights().start(policy)
    assert policy.network.copies == {}
    base = tiny(folder).score([row]).detach()
    torch.testing.assert_close(InitialWeights().scores(policy, [row]).logits(), base)
    assert (policy.score([row]) - base).abs().max() > 1e-3
    assert all("lora" in name for name, parameter in policy.named_parameters() if parameter.requires_grad)


def test_bug_24_the_adapter_comes_back_after_an_exception_in_the_teacher_pass(folder: Path) -> None:
    policy = trained_adapter(folder)
    row = ScoreRow(tuple(range(9)), ((3, 9),))
    live = policy.score([row]).detach()
    trainable = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    policy.train()
    with pytest.raises(IndexError):
        InitialWeights().scores(policy, [ScoreRow((10**6, 1), ((1, 2),))])
    assert torch.equal(policy.score([row]).detach(), live)
    assert [name for name, parameter in policy.named_parameters() if parameter.requires_grad] == trainable
    assert policy.training


def test_what_is_saved_is_loaded_again(policy: HuggingFacePolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    again = HuggingFacePolicy(pretrained=str(tmp_path))
    again.load()
    row = ScoreRow(tuple(range(9)), ((3, 9),))
    assert torch.equal(again.score([row]), policy.score([row]))
    assert again.template.generation_ids == policy.template.generation_ids


def test_bug_856_a_folder_that_cannot_be_written_is_named(
    policy: HuggingFacePolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PolicyError, match=r"Saving to .*file/below failed.*Free some space or choose another folder"):
        policy.save_pretrained(tmp_path / "file" / "below")

    def full(folder: Path) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(policy.network.model, "save_pretrained", full)
    with pytest.raises(PolicyError, match=r"No space left on device.*Free some space or choose another folder"):
        policy.save_pretrained(tmp_path)


def test_a_merged_adapter_is_saved_as_a_whole_model(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    policy = tiny(folder, lora=Lora(rank=4, alpha=8))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    row = ScoreRow(tuple(range(9)), ((3, 9),))
    with policy.sampling():
        adapted, plain = policy.score([row]), policy.score([row], "initial")
        policy.save_pretrained(tmp_path / "merged", merge=True)
        assert torch.equal(policy.score([row]), adapted)  # the policy itself keeps its adapter
    again = HuggingFacePolicy(pretrained=str(tmp_path / "merged"))
    again.load()
    torch.testing.assert_close(again.score([row]), adapted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(adapted, plain, atol=1e-3)


def test_the_same_seed_makes_the_same_initial_weights(folder: Path) -> None:
    row = ScoreRow(tuple(range(9)), ((3, 9),))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one = tiny(folder, seed=1)
    assert torch.equal(torch.rand(1), expected)  # the caller's randomness is left alone
    assert torch.equal(one.score([row]), tiny(folder, seed=1).score([row]))
    assert not torch.equal(one.score([row]), tiny(folder, seed=2).score([row]))


def test_a_float32_average_of_a_bfloat16_policy_comes_back_as_float32(folder: Path) -> None:
    first, second = (tiny(folder, dtype="bfloat16") for _ in range(2))
    first.keep("ema", torch.float32)
    with torch.no_grad():
        next(first.network.copies["ema"].parameters()).add_(1e-4)
    second.load_copies(first.copies_state())
    averages = (policy.network.copies["ema"].parameters() for policy in (first, second))
    for saved, loaded in zip(*averages, strict=True):
        assert loaded.dtype == torch.float32
        assert torch.equal(saved, loaded)


@pytest.mark.parametrize("merge", [False, True])
def test_bug_736_an_adapter_on_random_weights_is_saved_as_a_whole_model(
    folder: Path, tmp_path: Path, merge: bool
) -> None:
    pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    from transformers import AutoModelForCausalLM

    policy = trained_adapter(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        policy.save_pretrained(tmp_path, merge=merge)
    told = [str(one.message) for one in caught if "The adapter is merged" in str(one.message)]
    assert len(told) == (0 if merge else 1)
    ids = [5, 6, 7, 8]
    ours = policy.score([ScoreRow(tuple(ids), ((1, 4),))])
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again(torch.tensor([ids])).logits[0, :3], ours, atol=1e-4, rtol=0)


def test_bug_640_a_copy_of_an_adapter_shares_the_weights_that_are_not_trained(folder: Path) -> None:
    pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    policy = trained_adapter(folder)
    policy.keep("gated")
    live, copied = policy.network.model, policy.network.copies["gated"]
    pairs = list(zip(live.parameters(), copied.parameters(), strict=True))
    assert [own is other for own, other in pairs] == [not own.requires_grad for own, _ in pairs]
    row = ScoreRow(tuple(range(9)), ((3, 9),))
    with policy.sampling():
        start = policy.score([row])
        with torch.no_grad():
            for own, _ in pairs:
                if own.requires_grad:
                    own.add_(0.5)
        assert torch.equal(policy.score([row], "gated"), start)
        assert not torch.equal(policy.score([row]), start)
    policy.network.refresh("gated")
    with policy.sampling():
        assert torch.equal(policy.score([row], "gated"), policy.score([row]))
