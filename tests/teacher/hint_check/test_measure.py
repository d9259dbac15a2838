"""Log-probabilities of replies under every wording, in few passes and with bounded memory."""

import math

import pytest
import torch

import hero_pl.teacher.hint_check.measure as measuring
from hero_pl.chat.actions import PlainText
from hero_pl.chat.template import ChatTemplate
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampling import Sampling
from hero_pl.rollout.collect import Collector, Limits
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.hint_check.cases import ALL, Arm, make_cases
from hero_pl.teacher.hint_check.measure import joined, measure, reply_logprobs
from hero_pl.teacher.render import HintTemplate
from hero_pl.teacher.wordings import Wording, wordings


def templates(*chosen):
    return {wording: HintTemplate(wording.template, 1024, 1536) for wording in chosen or wordings()}


def test_a_reply_that_the_hint_names_gains_what_the_model_gives_it(reader, batch, uniform) -> None:
    policy = reader("; do ")
    cases = make_cases(*batch(policy), HindsightTeacher().facts, policy.dialect)
    measured = measure(
        cases, templates(Wording("short", "before_action"), Wording("full", "before_action")), policy, ALL
    )
    length = len(policy.ids("click[good0]"))
    bare = uniform(policy, length)
    vocabulary = len(policy.template.tokenizer)
    gained = length * (3.0 + math.log(vocabulary) - math.log(vocabulary - 1 + math.exp(3.0)))
    assert measured.bare[:4] == pytest.approx([bare] * 4)
    short, full = measured.readings
    assert short.logprobs[Arm.HINT][:4] == pytest.approx([bare + gained] * 4)
    assert short.logprobs[Arm.WRONG][:4] == pytest.approx([bare + gained] * 4)  # of the wrong target
    assert short.logprobs[Arm.WRONG][4:] == (None,) * 4
    assert short.logprobs[Arm.SCAFFOLD] == pytest.approx(measured.bare)
    assert full.logprobs[Arm.HINT] == pytest.approx(measured.bare)  # it is not read
    assert (short.first, full.first) == ((True,) * 4 + (False,) * 4, (False,) * 8)
    assert measured.blamed == (True,) * 4 + (False,) * 4


def test_a_wording_that_the_chat_template_refuses_is_named_and_the_others_are_measured(reader, batch) -> None:
    policy = reader("; do ")
    strict = policy.template.tokenizer.chat_template.replace(
        "{% for message in messages %}",
        "{% for message in messages %}{% if not loop.first and loop.previtem['role'] == message['role'] %}"
        "{{ raise_exception('two in a row') }}{% endif %}",
    )
    policy.template.tokenizer.chat_template = strict
    policy.template = ChatTemplate(policy.template.tokenizer)
    cases = make_cases(*batch(policy), HindsightTeacher().facts, policy.dialect)
    measured = measure(
        cases, templates(Wording("short", "before_action"), Wording("inline", "last_message")), policy, ALL
    )
    refused, inline = measured.readings
    assert "two user messages in a row" in refused.refused
    assert set(refused.logprobs[Arm.HINT]) == {None}
    assert inline.refused == ""
    assert None not in inline.logprobs[Arm.HINT]


def test_the_turns_of_all_processes_are_pooled_and_their_episodes_kept_apart(reader, batch) -> None:
    policy = reader("; do ")
    cases = make_cases(*batch(policy), HindsightTeacher().facts, policy.dialect)
    chosen = templates(Wording("short", "before_action"))
    here, there = measure(cases[:4], chosen, policy, ALL), measure(cases[4:6], chosen, policy, ALL)
    both = joined([here, there])
    assert both.episodes == (0, 1, 2, 3, 4, 5)
    assert both.blamed == (True,) * 4 + (False,) * 2
    (pooled,), (one,), (other,) = both.readings, here.readings, there.readings
    assert pooled.logprobs[Arm.HINT] == one.logprobs[Arm.HINT] + other.logprobs[Arm.HINT]
    assert both.tokens == here.tokens + there.tokens


def test_contexts_that_do_not_fit_are_left_out_and_counted(reader, batch) -> None:
    policy = reader("; do ")
    cases = make_cases(*batch(policy), HindsightTeacher().facts, policy.dialect)
    policy.max_length = max(len(case.turn.prompt_ids) + len(case.wanted) for case in cases) + 10
    measured = measure(cases, templates(Wording("full", "before_action")), policy, (Arm.HINT,))
    assert measured.readings[0].logprobs[Arm.HINT] == (None,) * 8
    assert measured.too_long == 8
    assert None not in measured.bare


@pytest.fixture(scope="module")
def shop():
    """A tiny network and the cases of two episodes of the pocket shop."""
    torch.manual_seed(0)
    config = {
        "model_type": "qwen3",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 2048,
    }
    policy = HuggingFacePolicy(config=config, tokenizer="hero_pl:pocket-shop", parser=PlainText())
    policy.load()
    collector = Collector("hero_pl/WebShopPocket-v0", split="train", limits=Limits(max_turns=3))
    specs = [EpisodeSpec(task, i, i) for i, task in enumerate(collector.task_ids[:2])]
    played = collector.collect(specs, policy, Sampling(1.0, 4))
    return policy, make_cases(played, ShopRules().reflect(played, policy), HindsightTeacher().facts, policy.dialect)


def test_a_network_that_runs_the_conversation_once_gives_the_same_numbers(shop, monkeypatch) -> None:
    policy, cases = shop
    measured = measure(cases, templates(), policy, ALL)
    alone = reply_logprobs(policy, [(case.turn.prompt_ids, case.wanted) for case in cases])
    assert measured.bare == pytest.approx(alone, abs=1e-4)
    monkeypatch.setattr(measuring.BranchScorer, "can_share", lambda *_: False)
    separate = measure(cases, templates(), policy, ALL)
    for one, other in zip(measured.readings, separate.readings, strict=True):
        for arm in ALL:
            assert [v for v in one.logprobs[arm] if v] == pytest.approx([v for v in other.logprobs[arm] if v], abs=1e-4)
    assert measured.tokens < separate.tokens


def test_few_logits_exist_at_the_same_time(shop, monkeypatch) -> None:
    policy, cases = shop
    seen = []
    score = measuring.score_replies
    monkeypatch.setattr(measuring, "SCORED_TOKENS", 20)
    monkeypatch.setattr(
        measuring,
        "score_replies",
        lambda policy, rows, weights: seen.append(sum(len(r) for _, r in rows)) or score(policy, rows, weights),
    )
    narrow = measure(cases[:2], templates(Wording("short", "before_action")), policy, ALL)
    assert max(seen) <= 20
    monkeypatch.setattr(measuring, "SCORED_TOKENS", 10_000)
    wide = measure(cases[:2], templates(Wording("short", "before_action")), policy, ALL)
    assert narrow.readings[0].logprobs[Arm.HINT] == pytest.approx(wide.readings[0].logprobs[Arm.HINT], abs=1e-4)
