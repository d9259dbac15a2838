"""Prompts that begin alike: each token of their beginning is run once, and nothing else changes."""

import pytest
import torch

from hero_pl.policy.beginnings import LEAST, Beginnings
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampler import CachedSession
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.sampling_weights import SamplingWeights

SYSTEM = "Answer with one short action and nothing else. " * 4
OPENINGS = ("find a table", "look for a very small green lamp", "find a table", "buy")


@pytest.fixture
def policy(tiny_policy) -> HuggingFacePolicy:
    made = tiny_policy()
    made.load()
    return made


def opened(policy: HuggingFacePolicy, rows: list[int], system: str = SYSTEM) -> tuple[list[list], CachedSession]:
    """Two turns of some conversations; the actions of each."""
    prompts = [policy.template.first_prompt(system, OPENINGS[row]) for row in rows]
    with policy.sampling():
        session = policy.sampler.open(policy, Sampling(1.0, 6), [70 + row for row in rows])
        places = range(len(rows))
        first = session.act(places, prompts)
        longer = [
            policy.template.next_prompt(prompt, action.ids, f"page {row}", "user")
            for row, prompt, action in zip(rows, prompts, first, strict=True)
        ]
        second = session.act(places, longer)
    return [[one, two] for one, two in zip(first, second, strict=True)], session


def test_conversations_with_one_system_prompt_draw_what_they_draw_alone(policy) -> None:
    alone = [opened(policy, [row])[0][0] for row in range(4)]
    together, session = opened(policy, [0, 1, 2, 3])
    for one, other in zip(alone, together, strict=True):
        assert [action.ids for action in one] == [action.ids for action in other]
        for first, second in zip(one, other, strict=True):
            assert first.logprobs == pytest.approx(second.logprobs, abs=1e-5)
    assert session.beginnings.common is not None


def test_the_common_beginning_and_equal_prompts_are_run_once(policy) -> None:
    prompts = [policy.template.first_prompt(SYSTEM, opening) for opening in OPENINGS]
    with policy.sampling():
        session = policy.sampler.open(policy, Sampling(1.0, 1), range(4))
        session.act(range(4), prompts)
        common = len(session.beginnings.common.ids)
        assert common >= LEAST
        rest = sum(len(prompt) - common for prompt in prompts)
        assert session.fed_tokens == common + rest  # the second "find a table" is short
        later = session.open([9])
        session.act(later, [policy.template.first_prompt(SYSTEM, "later")])
        assert session.fed_tokens == common + rest + len(policy.template.first_prompt(SYSTEM, "later")) - common


def test_a_group_runs_its_first_prompt_once(policy) -> None:
    page = "results: " + "tin table | oak table | " * 8
    prompt = policy.template.first_prompt(SYSTEM, page)
    other = policy.template.first_prompt(SYSTEM, "buy")
    with policy.sampling():
        session = policy.sampler.open(policy, Sampling(0.0, 1), range(5))
        drawn = session.act(range(5), [prompt] * 4 + [other])
        alone = policy.sampler.open(policy, Sampling(0.0, 1), [0]).act([0], [prompt])[0]
    common = len(session.beginnings.common.ids)
    assert session.fed_tokens == common + (len(prompt) - 1 - common) + 4 + (len(other) - common)
    assert {action.ids for action in drawn[:4]} == {alone.ids}


def test_a_prompt_that_begins_otherwise_is_run_whole(policy) -> None:
    with policy.sampling(), torch.no_grad():
        weights = SamplingWeights(policy.network, "live")
        with weights.ready(0):
            beginnings = Beginnings(weights)
            first, second = (policy.template.first_prompt(SYSTEM, opening) for opening in OPENINGS[:2])
            assert all(row is not None for row in beginnings.of([first, second]))
            foreign = policy.template.first_prompt(SYSTEM.lower(), OPENINGS[0])
            assert beginnings.of([foreign]) == [None]
            assert beginnings.of([beginnings.common.ids]) == [None]  # its last token must be run


def test_the_rest_of_many_prompts_is_read_in_passes_of_bounded_size(policy, monkeypatch) -> None:
    shapes: list[tuple[int, ...]] = []
    prompts = [policy.template.first_prompt(SYSTEM, f"{opening} {number}") for number, opening in enumerate(OPENINGS)]
    handle = policy.network.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, given: shapes.append(tuple(given[0].shape))
    )
    monkeypatch.setattr("hero_pl.policy.cached_rows.TOKENS_PER_PASS", 40)
    try:
        with policy.sampling():
            session = policy.sampler.open(policy, Sampling(0.0, 1), range(4))
            session.act(range(4), prompts)
    finally:
        handle.remove()
    common = len(session.beginnings.common.ids)
    assert shapes[0] == (1, common)
    assert sum(rows for rows, _ in shapes[1:]) == 4
    assert len(shapes) > 2
    assert all(rows == 1 or rows * width <= 40 for rows, width in shapes)


def test_short_beginnings_are_not_worth_a_pass(policy) -> None:
    _, session = opened(policy, [1, 3], system="")
    assert session.beginnings.common is None
