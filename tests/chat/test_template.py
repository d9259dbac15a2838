"""Prompts as ids: they grow by appending, outside text stays plain text, hints are inserted at the set position."""

import json
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.chat.template import CHATML, CHATML_TOKENS, TOOL_PREFIX, ChatTemplate
from hero_pl.errors import ConfigError, PolicyError, TokenAlignmentError
from hero_pl.types import HintPosition, Message

OUTSIDE = st.lists(
    st.sampled_from(
        [*CHATML_TOKENS, "<|im_", "start|>", "<|", "|>", "HEROSLOT0TOLSOREH", "HEROSLOT", "TOLSOREH", "\ud800"]
    )
    | st.text(max_size=6),
    max_size=8,
).map("".join)
WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
)
ONE_USER = (
    "{% for m in messages %}{% if not loop.first and m['role'] == 'user' and loop.previtem['role'] == 'user' %}"
    "{{ raise_exception('two user messages') }}{% endif %}{% if m['role'] == 'tool' %}"
    "{{ raise_exception('no tools') }}{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def made(source: str | None = CHATML, hint_position: HintPosition = "before_action") -> ChatTemplate:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer, hint_position)


TEMPLATE = made(WITH_TOOLS + CHATML)
END = int(TEMPLATE.tokenizer.eos_token_id)


def controls(ids: tuple[int, ...]) -> list[int]:
    return [i for i in ids if i in TEMPLATE.encoder.control_ids]


def text_of(ids: tuple[int, ...]) -> str:
    return str(TEMPLATE.tokenizer.decode(list(ids)))


def clean(text: str) -> str:
    return text.replace("\ud800", "\ufffd")


@settings(max_examples=60, deadline=None)
@given(OUTSIDE)
def test_outside_text_keeps_its_letters_and_never_becomes_a_control_id(text: str) -> None:
    ids = TEMPLATE.encoder.encode_untrusted(text)
    assert controls(ids) == []
    assert text_of(ids) == clean(text)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), OUTSIDE), min_size=1, max_size=4))
def test_no_role_can_speak_as_the_template(drawn: list[tuple[str, str]]) -> None:
    hostile = [Message(role, text) for role, text in drawn]  # type: ignore[arg-type]
    harmless = [Message(role, "x") for role, _ in drawn]  # type: ignore[arg-type]
    ids = TEMPLATE.conversation(hostile)
    assert controls(ids) == controls(TEMPLATE.conversation(harmless))
    written = "".join(f"<|im_start|>{role}\n{clean(text)}<|im_end|>\n" for role, text in drawn)
    assert text_of(ids) == written + "<|im_start|>assistant\n"


@settings(max_examples=30, deadline=None)
@given(OUTSIDE)
def test_tool_schemas_observations_and_hints_cannot_speak_as_the_template(text: str) -> None:
    tool = {"name": text, "description": text, text: [{"enum": [text, 1]}]}
    plain = {"name": "x", "description": "x", "x": [{"enum": ["x", 1]}]}
    prompt = TEMPLATE.first_prompt(text, text, tools=[tool])
    assert controls(prompt) == controls(TEMPLATE.first_prompt("x" if text else "", "x", tools=[plain]))
    action = (*TEMPLATE.encoder.encode_untrusted("go"), END)
    for role in ("user", "tool"):
        following = TEMPLATE.next_prompt(prompt, action, text, role)
        assert controls(following) == controls(TEMPLATE.next_prompt(prompt, action, "x", role))
    if text:
        assert controls(TEMPLATE.insert_hint(prompt, text)) == controls(TEMPLATE.insert_hint(prompt, "x"))


def test_tools_are_shown_with_their_control_strings_as_letters() -> None:
    tool = {"name": "buy", "description": 'say "<|im_end|>"'}
    shown = text_of(TEMPLATE.first_prompt("", "hi", tools=[tool])).split("\n")[1]
    assert json.loads(shown) == tool


def test_contexts_grow_by_appending_and_equal_the_rendered_conversation() -> None:
    prompt = TEMPLATE.first_prompt("sys", "hello")
    action = (*TEMPLATE.encoder.encode_untrusted("answer"), END)
    following = TEMPLATE.next_prompt(prompt, action, "seen", "tool")
    assert following[: len(prompt) + len(action)] == prompt + action
    spoken = [
        Message("system", "sys"),
        Message("user", "hello"),
        Message("assistant", "answer"),
        Message("tool", "seen"),
    ]
    assert following == TEMPLATE.conversation(spoken)


def test_an_action_that_stopped_at_its_length_gets_its_end_from_the_template() -> None:
    prompt = TEMPLATE.first_prompt("", "hello")
    cut = TEMPLATE.encoder.encode_untrusted("answ")
    following = TEMPLATE.next_prompt(prompt, cut, "seen")
    assert following[: len(prompt) + len(cut) + 1] == (*prompt, *cut, END)
    assert following == TEMPLATE.next_prompt(prompt, (*cut, END), "seen")


def test_a_template_without_a_tool_role_shows_tool_results_as_user_messages() -> None:
    template = made(ONE_USER)
    assert not template.has_tool_role
    following = template.next_prompt(template.first_prompt("", "a"), (65, END), "42", "tool")
    assert text_of(following).endswith(f"<|im_start|>user\n{TOOL_PREFIX}42<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_without_a_system_role_gets_the_system_prompt_in_the_first_user_message() -> None:
    ids = made(NO_SYSTEM).first_prompt("rules", "hello")
    assert text_of(ids) == "<|im_start|>user\nrules\n\nhello<|im_end|>\n<|im_start|>assistant\n"


def test_two_user_messages_that_the_template_refuses_name_the_cure() -> None:
    template = made(ONE_USER)
    with pytest.raises(PolicyError, match="last_message"):
        template.insert_hint(template.first_prompt("", "a"), "note")
    cured = made(ONE_USER, "last_message")
    assert text_of(cured.insert_hint(cured.first_prompt("", "a"), "note")).startswith(
        "<|im_start|>user\na\n\nnote<|im_end|>"
    )


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("before_action", "<|im_start|>user\nq<|im_end|>\n<|im_start|>user\nH<|im_end|>\n<|im_start|>assistant\n"),
        ("last_message", "<|im_start|>user\nq\n\nH<|im_end|>\n<|im_start|>assistant\n"),
        ("system", "<|im_start|>system\nH<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"),
        ("think_prefix", "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\nH\n</think>\n\n"),
    ],
)
def test_each_hint_position_is_where_it_says(position: HintPosition, expected: str) -> None:
    template = made(hint_position=position)
    prompt = template.first_prompt("", "q")
    assert text_of(template.insert_hint(prompt, "H")) == expected
    assert template.insert_hint(prompt, "") == prompt


def test_bug_42_a_system_hint_comes_after_the_one_token_that_begins_the_sequence() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    tokenizer.bos_token = "<|pad|>"
    template = ChatTemplate(tokenizer, "system")
    prompt = template.first_prompt("", "q")
    hinted = template.insert_hint(prompt, "H")
    assert hinted[0] == prompt[0] == tokenizer.bos_token_id
    assert hinted.count(prompt[0]) == prompt.count(prompt[0]) == 1
    assert text_of(hinted[1:]).startswith("<|im_start|>system\nH<|im_end|>\n<|im_start|>user\nq")


def test_bug_153_a_system_hint_keeps_the_start_of_its_message_where_bos_starts_messages() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    template = ChatTemplate(tokenizer, "system")
    hinted = template.insert_hint(template.first_prompt("", "q"), "H")
    assert text_of(hinted).startswith("<|im_start|>system\nH<|im_end|>\n<|im_start|>user\nq")


UNASKED = CHATML.partition("{% if add")[0] + "{{ '<|im_start|>assistant\n' }}"


@pytest.mark.parametrize("position", get_args(HintPosition))
@pytest.mark.parametrize("start", ["", "{{ bos_token }}"])
def test_bug_154_a_template_that_writes_its_generation_prompt_unasked_is_like_any_other(
    position: HintPosition, start: str
) -> None:
    both = []
    for source in (UNASKED, CHATML):
        tokenizer = byte_tokenizer()
        tokenizer.bos_token, tokenizer.chat_template = "<|pad|>", start + source
        template = ChatTemplate(tokenizer, position)
        first = template.first_prompt("s", "q")
        later = template.next_prompt(first, (65, END), "o")
        hinted = [template.insert_hint(prompt, "H", draft=(65, END)) for prompt in (first, later)]
        both.append(
            (template.generation_text, first, later, *hinted, template.conversation([Message("user", "q")], (), False))
        )
    assert both[0] == both[1]


def test_after_a_draft_the_hint_is_the_answer_to_it() -> None:
    template = made(hint_position="after_draft")
    prompt = template.first_prompt("", "q")
    (letter,) = template.encoder.encode_untrusted("A")
    for draft in ((letter, END), (letter,)):  # a draft that was cut gets the end of its turn from the template
        assert text_of(template.insert_hint(prompt, "H", draft=draft)) == (
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
            "<|im_start|>user\nH<|im_end|>\n<|im_start|>assistant\n"
        )
    with pytest.raises(TokenAlignmentError, match="draft"):
        template.insert_hint(prompt, "H")


@pytest.mark.parametrize("position", get_args(HintPosition))
def test_bug_88_a_hint_that_is_kept_fits_every_context(position: HintPosition) -> None:
    first = TEMPLATE.first_prompt("s", "a")
    drafts = [TEMPLATE.encoder.encode_untrusted("one"), (*TEMPLATE.encoder.encode_untrusted("one"), END)]
    contexts = [first, *(TEMPLATE.next_prompt(first, draft, "b", "tool") for draft in drafts)]
    asked = [(hint, context, draft) for hint in ("h", "i") for context in contexts for draft in drafts]
    kept = made(WITH_TOOLS + CHATML)
    for hint, context, draft in asked:
        alone = made(WITH_TOOLS + CHATML).insert_hint(context, hint, position, draft)
        assert kept.insert_hint(context, hint, position, draft) == alone
        if position == "after_draft":
            assert alone == TEMPLATE.next_prompt(context, draft, hint)


def test_before_action_keeps_the_context_as_a_verbatim_prefix() -> None:
    prompt = TEMPLATE.first_prompt("s", "q")
    body = prompt[: len(prompt) - len(TEMPLATE.generation_ids)]
    assert TEMPLATE.insert_hint(prompt, "H")[: len(body)] == body


def test_last_message_reaches_into_a_tool_result_too() -> None:
    template = made(hint_position="last_message")
    context = template.next_prompt(template.first_prompt("", "q"), (65, END), "seen", "tool")
    assert text_of(template.insert_hint(context, "H")).endswith("tool\nseen\n\nH<|im_end|>\n<|im_start|>assistant\n")


def test_a_context_that_does_not_end_in_the_generation_prompt_is_refused() -> None:
    with pytest.raises(TokenAlignmentError, match="generation prompt"):
        TEMPLATE.insert_hint((1, 2, 3), "note")


def test_templates_that_cannot_work_are_refused_with_a_reason() -> None:
    with pytest.raises(PolicyError, match="no chat template"):
        made(None)
    with pytest.raises(PolicyError, match="add_generation_prompt"):
        made(CHATML.partition("{% if add_generation_prompt")[0])
    with pytest.raises(PolicyError, match="rewrites earlier messages"):
        made("{{ messages | length }}" + CHATML.replace("{% if add", "{{ messages | length }}{% if add")).insert_hint(
            (*TEMPLATE.first_prompt("", "q"),), "note"
        )
    with pytest.raises(ConfigError, match="hint_position"):
        made(hint_position="nowhere")  # type: ignore[arg-type]
    endless = byte_tokenizer()
    endless.eos_token = None
    with pytest.raises(PolicyError, match="end-of-turn"):
        ChatTemplate(endless)
