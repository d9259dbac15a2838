"""The cache between turns: every token is run once and rows are moved; neither changes what is sampled."""

from typing import Any

import pytest
import torch

from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.policy.cached_rows import CachedRows
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampler import CachedSampler, CachedSession
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.sampling_weights import SamplingWeights
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.types import SampledAction

OPENINGS = ["a", "a much longer opening, " * 8, "b", "c"]
ANSWERS = [
    ["yes", "a long answer, " * 12, "no"],
    ["", "x", "a long answer, " * 9],
    ["k", "l", "m"],
    ["p" * 60, "q", "r"],
]
"""Observations after each action: never two long ones at once, so that the lengths of the rows become different."""

Turns = list[tuple[tuple[int, ...], SampledAction]]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> HuggingFacePolicy:
    folder = tmp_path_factory.mktemp("bytes")
    byte_tokenizer().save_pretrained(folder)
    config: dict[str, Any] = {
        "model_type": "qwen3",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "initializer_range": 0.3,
    }
    made = HuggingFacePolicy(config=config, tokenizer=str(folder))
    made.load()
    return made


def play(policy: HuggingFacePolicy, rows: list[int], sampling: Sampling) -> tuple[dict[int, Turns], CachedSession]:
    """Four turns of the named conversations in one batch; the last one ends after two."""
    place = {row: i for i, row in enumerate(rows)}
    prompts = {row: policy.template.first_prompt("", OPENINGS[row]) for row in rows}
    turns: dict[int, Turns] = {row: [] for row in rows}
    with policy.sampling():
        session = policy.sampler.open(policy, sampling, [100 + row for row in rows])
        assert isinstance(session, CachedSession)
        for number in range(4):
            active = [row for row in rows if number < (2 if row == 3 else 4)]
            if not active:
                break
            actions = session.act([place[row] for row in active], [prompts[row] for row in active])
            for row, action in zip(active, actions, strict=True):
                turns[row].append((prompts[row], action))
                if number < 3:
                    prompts[row] = policy.template.next_prompt(prompts[row], action.ids, ANSWERS[row][number], "user")
    return turns, session


def only_batch(session: CachedSession) -> CachedRows:
    (batch,) = session.batches.values()
    return batch


def test_a_policy_without_a_network_is_refused_with_the_sampler_to_use() -> None:
    with pytest.raises(ConfigError, match=r"CachedSampler .* HuggingFacePolicy.* ScriptedPolicy.* ScriptedSampler"):
        CachedSampler().open(ScriptedPolicy(), Sampling(), [0])


@pytest.mark.parametrize("sampling", [Sampling(0.0, 12), Sampling(1.0, 12)], ids=["greedy", "sampled"])
def test_ragged_conversations_equal_those_played_alone_although_rows_were_moved_up(
    sampling: Sampling, policy: HuggingFacePolicy
) -> None:
    together, session = play(policy, [0, 1, 2, 3], sampling)
    assert only_batch(session).moved >= 1
    for row in range(4):
        alone, _ = play(policy, [row], sampling)
        assert [action.ids for _, action in alone[row]] == [action.ids for _, action in together[row]]
        for (_, one), (_, other) in zip(alone[row], together[row], strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 2], [0]], ids=["padded", "alike at first", "alone"])
def test_bug_707_a_decoding_pass_gets_what_each_row_sees_and_draws_the_same(
    rows: list[int], policy: HuggingFacePolicy
) -> None:
    network = policy.need_network("a test")
    assert network.takes_seen
    given: list[Any] = []
    handle = network.model.model.register_forward_pre_hook(
        lambda _, __, inputs: given.append((inputs["input_ids"].shape[1], inputs["attention_mask"])), with_kwargs=True
    )
    try:
        got, _ = play(policy, rows, Sampling(1.0, 12))
        decoding = [mask for width, mask in given if width == 1]
        network.takes_seen = False
        want, _ = play(policy, rows, Sampling(1.0, 12))
    finally:
        network.takes_seen = True
        handle.remove()
    assert all(mask is None or (mask.dtype, mask.dim()) == (torch.bool, 4) for mask in decoding)
    assert all(mask.dim() == 2 for width, mask in given if width > 1)  # transformers adds what is causal
    assert any(mask is None for mask in decoding) == (len(rows) < 4)  # nothing is padded
    for row in rows:
        assert [action.ids for _, action in got[row]] == [action.ids for _, action in want[row]]
        for (_, one), (_, other) in zip(got[row], want[row], strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_a_step_after_ids_of_different_numbers_sees_no_padding(policy: HuggingFacePolicy) -> None:
    network, found = policy.need_network("a test"), []
    for takes_seen in (True, False):
        network.takes_seen = takes_seen
        weights = SamplingWeights(network, "live")
        try:
            with policy.sampling(), weights.ready(policy.version):
                batch = CachedRows(weights)
                batch.join({0: (5, 6, 7), 1: (8, 9, 10)})
                batch.feed({0: (11, 12), 1: (13,)})
                found.append(batch.step(torch.tensor([14, 15])))
        finally:
            network.takes_seen = True
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)


def test_bug_646_prompts_of_many_rows_are_read_in_passes_of_bounded_size(
    policy: HuggingFacePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    embedding = policy.need_network("a test").model.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    try:
        together, _ = play(policy, [0, 1, 2, 3], Sampling(1.0, 12))
        rows, longest = shapes[0]
        assert rows == 4
        shapes.clear()
        monkeypatch.setattr("hero_pl.policy.cached_rows.TOKENS_PER_PASS", 2 * longest)
        apart, _ = play(policy, [0, 1, 2, 3], Sampling(1.0, 12))
    finally:
        handle.remove()
    assert shapes[0][0] < 4
    assert shapes[0][0] * shapes[0][1] <= 2 * longest
    for row in range(4):
        assert [action.ids for _, action in apart[row]] == [action.ids for _, action in together[row]]


@pytest.mark.parametrize(
    "sampler", [CachedSampler(0.0), CachedSampler(1.0), CachedSampler(0.5, 3), CachedSampler(0.0, 8)]
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bug_561_tokens_drawn_ahead_and_early_answers_change_nothing(
    temperature: float, sampler: CachedSampler, policy: HuggingFacePolicy
) -> None:
    sampling = Sampling(temperature, 12)
    alone = {row: play(policy, [row], sampling)[0][row] for row in range(4)}
    lengths = {len(action.ids) for turns in alone.values() for _, action in turns}
    assert len(lengths) > 2 or not temperature  # some rows end while others go on
    before, policy.sampler = policy.sampler, sampler
    try:
        together, session = play(policy, [0, 1, 2, 3], sampling)
    finally:
        policy.sampler = before
    for row in range(4):
        assert [action.ids for _, action in alone[row]] == [action.ids for _, action in together[row]]
        for (_, one), (_, other) in zip(alone[row], together[row], strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
            assert one.finish_reason == other.finish_reason
    last = [turns[-1] for turns in together.values()]
    fed = sum(len(prompt) + len(action.ids) - 1 for prompt, action in last)
    # a token that ends an action may be fed at once, or with the next prompt
    assert fed <= session.fed_tokens <= fed + len(last)


def test_bug_562_a_row_that_has_ended_is_not_run_with_the_others(policy: HuggingFacePolicy) -> None:
    prompt = policy.template.first_prompt("", "same")
    with policy.sampling():
        session = policy.sampler.open(policy, Sampling(1.5, 30), range(64))
        assert isinstance(session, CachedSession)
        drawn = session.act(range(64), [prompt] * 64)
    steps = [len(action.ids) for action in drawn]
    assert min(steps) < 15 < 30 == max(steps)
    assert only_batch(session).passed == 64 * len(prompt) + sum(count - 1 for count in steps)


def test_an_action_is_handed_out_while_others_are_drawn(policy: HuggingFacePolicy) -> None:
    prompt = policy.template.first_prompt("", "same")
    with policy.sampling():
        session = CachedSampler(refill=0.9).open(policy, Sampling(1.5, 30), range(64))
        session.submit(range(64), [prompt] * 64)
        first = session.finished()
        assert 7 <= len(first) < 64  # at most 57 are still being drawn
        session.close([row for row, _ in first])
        rest = session.finished()
    assert rest
    assert not {row for row, _ in first} & {row for row, _ in rest}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bug_858_logits_that_are_not_finite_are_an_error_that_says_what_to_do(
    policy: HuggingFacePolicy, temperature: float
) -> None:
    assert policy.network is not None
    scale = policy.network.model.model.norm.weight.data
    before = scale.clone()
    scale.fill_(torch.nan)
    try:
        with policy.sampling(), pytest.raises(PolicyError, match=r"logits are not finite.*lower model\.lr"):
            policy.sampler.open(policy, Sampling(temperature, 3), [0]).act(
                [0], [policy.template.first_prompt("", "same")]
            )
    finally:
        scale.copy_(before)


@pytest.mark.parametrize("wrong", [{"refill": -0.1}, {"refill": 1.5}, {"sync_every": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected"):
        CachedSampler(**wrong)


def test_every_token_of_every_conversation_is_fed_exactly_once(policy: HuggingFacePolicy) -> None:
    turns, session = play(policy, [0, 1, 2, 3], Sampling(1.0, 12))
    last = [played[-1] for played in turns.values()]
    # the last prompt holds everything before it; the very last sampled token is never fed
    assert session.fed_tokens == sum(len(prompt) + len(action.ids) - 1 for prompt, action in last)


def test_moving_up_leaves_a_slot_for_each_token_of_the_longest_conversation(policy: HuggingFacePolicy) -> None:
    _, session = play(policy, [0, 1, 2], Sampling(1.0, 12))
    batch = only_batch(session)
    with policy.sampling(), torch.inference_mode(), session.weights.ready(0):
        batch.feed({min(batch.fed, key=lambda row: len(batch.fed[row])): [5] * 40})
        loose = batch.mask.shape[1]
        batch._move_up()
    longest = max(map(len, batch.fed.values()))
    assert batch.mask.shape[1] == longest < loose
    assert all(layer.keys.shape[2] == longest for layer in batch.cache.layers)
    for filled, ids in zip(batch.mask.tolist(), batch.fed.values(), strict=True):
        assert filled == [0] * (longest - len(ids)) + [1] * len(ids)


def test_bug_45_rows_that_join_late_equal_those_that_were_there_from_the_start(policy: HuggingFacePolicy) -> None:
    """Row ``i`` joins at turn ``i``; the other rows wait, continue, or have ended."""
    alone = {row: play(policy, [row], Sampling(1.0, 12))[0][row] for row in range(4)}
    with policy.sampling():
        session = policy.sampler.open(policy, Sampling(1.0, 12))
        turns: dict[int, int] = {}
        for number in range(8):
            if number < 4:
                assert session.open([100 + number]) == [number]
                turns[number] = 0
            asked = [row for row in turns if number == row or (number + row) % 3]  # some wait a while
            actions = session.act(asked, [alone[row][turns[row]][0] for row in asked])
            for row, action in zip(asked, actions, strict=True):
                expected = alone[row][turns[row]][1]
                assert action.ids == expected.ids
                assert action.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
                turns[row] += 1
                if turns[row] == len(alone[row]):
                    session.close([row])
                    del turns[row]
    assert session.fed_tokens == sum(len(p[-1][0]) + len(p[-1][1].ids) - 1 for p in alone.values())


def test_the_cache_stays_small_while_rows_come_and_go(policy: HuggingFacePolicy) -> None:
    prompts = [policy.template.first_prompt("", "x" * (10 + 37 * i % 90)) for i in range(60)]
    longest = max(map(len, prompts)) + 6
    with policy.sampling():
        session = policy.sampler.open(policy, Sampling(1.0, 6), range(3))
        rows, widths = [0, 1, 2], []
        for number in range(57):
            session.act(rows, [prompts[row] for row in rows])  # the same prompt again: run from its start
            widths.append(only_batch(session).mask.shape[1])
            session.close(rows[:1])
            rows = [*rows[1:], *session.open([number])]
        assert max(widths[20:]) <= 2 * longest  # the others are fed while one joins
        session.close(rows)
    assert (session.batches, session.place, session.streams) == ({}, {}, {})


def test_an_action_carries_the_version_of_the_weights_that_drew_it(policy: HuggingFacePolicy) -> None:
    prompt = policy.template.first_prompt("", "hi")
    policy.keep("initial")
    with policy.sampling():
        policy.version = 7
        try:
            live, initial = (policy.sampler.open(policy, Sampling(1.0, 4), [0], name) for name in ("live", "initial"))
            assert [session.act([0], [prompt])[0].version for session in (live, initial)] == [7, 0]
        finally:
            policy.version = 0
