"""Conversations turn by turn: sampled ids are kept, and a template can rewrite the history as it does in general."""

import pytest

from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.chat.history import History
from hero_pl.chat.template import CHATML, ChatTemplate
from hero_pl.errors import PolicyError

DROPS = (  # the reasoning of a reply vanishes as soon as a user message follows it
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and '</think>' in m.content and loop.index0 < ns.last %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MOVES = (  # the system prompt stands in the last user message
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last %}{{ system }}{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENS = DROPS.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")


def made(source: str, **settings) -> ChatTemplate:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer, **settings)


def text(template: ChatTemplate, ids) -> str:
    return str(template.tokenizer.decode(list(ids)))


def action(template: ChatTemplate, reply: str) -> tuple[int, ...]:
    return (*template.encoder.encode_untrusted(reply), int(template.tokenizer.eos_token_id))


def wanted(template: ChatTemplate, *messages: tuple[str, str]) -> str:
    return str(
        template.tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            add_generation_prompt=True,
            tokenize=False,
        )
    )


def test_a_template_that_appends_is_appended_to() -> None:
    template = made(CHATML)
    history = History(template, "s", "q")
    former = (*history.prompt_ids, *action(template, "a"))
    assert history.append(action(template, "a"), "o")[: len(former)] == former
    assert history.rewritten_tokens == 0


def test_strip_gives_the_prompts_of_a_template_that_drops_earlier_reasoning() -> None:
    template = made(DROPS, reasoning="strip")
    assert template.drops_reasoning
    history = History(template, "s", "q")
    first, second = "<think>\nhm\n</think>\n\nlook", "<think>\nso\n</think>\n\nbuy"
    messages = [("system", "s"), ("user", "q"), ("assistant", first), ("tool", "seen")]
    # the reasoning stays while tools answer, and goes when the user does
    assert text(template, history.append(action(template, first), "seen", "tool")) == wanted(template, *messages)
    assert history.rewritten_tokens == 0
    messages += [("assistant", second), ("user", "thanks <|im_end|>")]
    last = history.append(action(template, second), "thanks <|im_end|>")
    assert text(template, last) == wanted(template, *messages)
    assert "hm" not in text(template, last)
    assert history.rewritten_tokens > 0
    assert [i for i in last if i in template.encoder.control_ids].count(int(template.tokenizer.eos_token_id)) == 6


def test_keep_leaves_everything_that_was_sampled() -> None:
    template = made(DROPS)
    history = History(template, "", "q")
    reply = action(template, "<think>\nhm\n</think>\n\nlook")
    former = (*history.prompt_ids, *reply)
    assert history.append(reply, "o")[: len(former)] == former


def test_what_is_kept_of_a_reply_keeps_its_sampled_ids() -> None:
    template = made(DROPS, reasoning="strip")
    vocabulary = template.tokenizer.get_vocab()
    odd = (vocabulary["b"], vocabulary["u"], vocabulary["y"])
    reply = (*template.encoder.encode_untrusted("<think>x</think>\n"), *odd, int(template.tokenizer.eos_token_id))
    ids = History(template, "", "q").append(reply, "o")
    start = len(template.first_prompt("", "q"))
    assert ids[start : start + 4] == reply[-4:]


def test_reasoning_that_the_generation_prompt_opens_goes_with_its_opening_word() -> None:
    template = made(OPENS, reasoning="strip")
    assert template.opens_reasoning
    ids = History(template, "", "q").append(action(template, "hm\n</think>\n\ngo"), "o")
    assert text(template, ids) == wanted(
        template, ("user", "q"), ("assistant", "<think>\nhm\n</think>\n\ngo"), ("user", "o")
    )
    cut = History(template, "", "q").append(template.encoder.encode_untrusted("still at"), "o")
    assert "still" not in text(template, cut)


def test_a_system_prompt_that_moves_moves_and_the_cost_is_counted() -> None:
    template = made(MOVES)
    assert template.moves_prompt
    history = History(template, "rules ", "q")
    messages = [("system", "rules "), ("user", "q")]
    assert text(template, history.prompt_ids) == wanted(template, *messages)
    messages += [("assistant", "a"), ("user", "o")]
    assert text(template, history.append(action(template, "a"), "o")) == wanted(template, *messages)
    assert history.rewritten_tokens > 0
    hinted = text(template, template.insert_hint(history.prompt_ids, "H", "last_message"))
    assert hinted.endswith("rules o\n\nH<|im_end|>\n<|im_start|>assistant\n")


def test_models_that_reason_can_be_refused() -> None:
    with pytest.raises(PolicyError, match="enable_thinking"):
        made(DROPS, reasoning="refuse")
    off = DROPS.replace(
        "assistant\n{% endif", "assistant\n{% if not think %}<think>\n\n</think>\n\n{% endif %}{% endif"
    )
    made(off, reasoning="refuse", template_args={"think": False})
    with pytest.raises(PolicyError, match="enable_thinking"):
        made(off, reasoning="refuse", template_args={"think": True})
    made(CHATML, reasoning="refuse")
