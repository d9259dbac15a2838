"""The checks of chat templates, which need no model: on small tokenizers and, if available, on real ones."""

import pytest
from tokenizers import normalizers

from hero_pl.chat.actions import ReAct, ToolCall
from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.chat.encode import Encoder
from hero_pl.chat.probes import Line, probe_template, tell
from hero_pl.chat.template import CHATML, ChatTemplate
from hero_pl.errors import PolicyError
from hero_pl.types import HintPosition, Message
from tests.chat.marked import CALLS, marked_tokenizer, real_tokenizers

TOOLS = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"


def lines(template: ChatTemplate, parser=None) -> dict:
    return {line.name: line for line in probe_template(template, parser or ToolCall())}


def made(source: str, **settings) -> ChatTemplate:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = source
    return ChatTemplate(tokenizer, **settings)


def test_every_line_of_a_good_template_is_green() -> None:
    assert all(line.ok for line in lines(made(TOOLS + CHATML)).values())


def test_tools_that_the_template_cannot_show_are_refused_with_the_cure() -> None:
    template = made(CHATML)
    assert not lines(template)["tools"].ok
    assert all(line.ok for line in lines(template, ReAct()).values())
    with pytest.raises(PolicyError, match="ReAct"):
        template.first_prompt("", "hi", tools=[{"name": "buy", "description": "Buy it."}])
    with pytest.raises(PolicyError, match="description"):
        made("{% for t in tools or [] %}{{ t.name }}{% endfor %}" + CHATML).first_prompt(
            "", "hi", tools=[{"name": "buy", "description": "Buy it."}]
        )


NAME, JSON = "call.function.name", "call.function.arguments | tojson"
FORMS = {  # templates that write a call in a form that ToolCall reads, and in one that it does not
    "a list": (True, '[TOOL_CALLS][{% raw %}{{% endraw %}"name": "{{ NAME }}", "arguments": {{ JSON }}}]'),
    "without markers": (True, '{% raw %}{{% endraw %}"name": "{{ NAME }}", "parameters": {{ JSON }}}'),
    "tags": (
        True,
        "<tool_call><function={{ NAME }}>{% for key in call.function.arguments %}"
        "<parameter={{ key }}>\n{{ call.function.arguments[key] }}\n</parameter>{% endfor %}</function></tool_call>",
    ),
    "Python": (
        False,
        "<|tool_call_start|>[{{ NAME }}({% for key in call.function.arguments %}"
        "{{ key }}={{ call.function.arguments[key] | tojson }}{% endfor %})]<|tool_call_end|>",
    ),
    "a channel": (False, "<|channel|>commentary to=functions.{{ NAME }}<|message|>{{ JSON }}"),
}


def writes(form: str) -> str:
    """A template that writes calls in this form."""
    text = form.replace("NAME", NAME).replace("JSON", JSON)
    calls = f"{{% for call in message.tool_calls or [] %}}{text}{{% endfor %}}"
    return TOOLS + CHATML.replace("{{ message['content'] }}", "{{ message['content'] or '' }}" + calls)


@pytest.mark.parametrize("name", FORMS)
def test_bug_722_a_call_that_the_template_writes_is_read_or_the_check_fails(name: str) -> None:
    right, form = FORMS[name]
    template = made(writes(form))
    line = lines(template)["tool calls"]
    assert line.ok == right
    assert ("read" in line.detail and "another form" in line.detail) if right else "herotool" in line.detail
    assert "ReAct" in line.cure
    assert lines(template, ReAct())["tool calls"].ok
    if right:
        tell(template, ToolCall())
    else:
        assert ("takes for a message" in line.detail) == (name == "a channel")
        with pytest.warns(UserWarning, match="ReAct"):
            tell(template, ToolCall())


def test_bug_722_labels_are_compared_with_the_call_of_the_template() -> None:
    assert lines(ChatTemplate(marked_tokenizer()))["tool calls"].detail == "read, and labels have the same ids"
    assert "not known" in lines(made(TOOLS + CHATML))["tool calls"].detail
    strings = (
        "{% if message.content is none %}<tool_call>{{ '{\"name\": \"' + NAME + '\", \"arguments\": ' + ARGS + '}' }}"
    )
    strings = strings.replace("ARGS", "call.function.arguments") + "</tool_call>{% endif %}"  # as DeepSeek wants them
    assert lines(made(writes(strings)))["tool calls"].detail.startswith("read")
    thinks = marked_tokenizer(CALLS.replace("assistant\n{% endif", "assistant\n<think>\n\n</think>\n\n{% endif"))
    assert lines(ChatTemplate(thinks))["tool calls"].detail == "read, and labels have the same ids"


def test_bos_is_counted_where_texts_begin() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = "<|im_start|>"  # begins every message, as in some small models
    assert lines(ChatTemplate(tokenizer))["BOS once"] == Line("BOS once", True, "it begins messages, not the text")
    tokenizer = byte_tokenizer()
    tokenizer.bos_token, tokenizer.chat_template = "<|pad|>", "{{ bos_token }}{{ bos_token }}" + CHATML
    assert not lines(ChatTemplate(tokenizer))["BOS once"].ok


def test_a_hint_position_that_the_template_cannot_show_is_wrong_where_it_is_set() -> None:
    alternating = CHATML.replace(
        "%}<|im_start|>",
        "%}{% if loop.index0 and message.role == messages[loop.index0 - 1].role %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}<|im_start|>",
        1,
    )
    report = lines(made(TOOLS + alternating))
    assert not report["hint before_action"].ok
    assert "last_message" in report["hint before_action"].detail
    assert report["hint last_message"].ok
    other = lines(made(TOOLS + alternating, hint_position="last_message"))
    assert other["hint before_action"].ok
    assert "not possible" in other["hint before_action"].detail


def test_a_position_that_loses_a_part_of_the_context_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    insert = ChatTemplate.insert_hint
    monkeypatch.setattr(ChatTemplate, "insert_hint", lambda *args, **kwargs: insert(*args, **kwargs)[1:])
    assert not lines(made(TOOLS + CHATML))["hint system"].ok


def test_text_from_outside_that_becomes_a_control_token_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "_cuts", lambda self, text, marked=None: iter(()))
    monkeypatch.setattr(Encoder, "encode_rendered", lambda self, text, marked, after=None: tuple(self._encode(text)))
    assert not lines(made(TOOLS + CHATML))["hostile text"].ok


def test_properties_that_change_prompts_are_reported() -> None:
    with pytest.warns(UserWarning, match="today"):
        tell(made("{{ strftime_now('%Y') }}" + CHATML), ToolCall())
    dropped = CHATML.replace("message['content'] }}", "message['content'].split('</think>')[-1] }}")
    with pytest.warns(UserWarning, match="reasoning: strip"):
        tell(made(dropped), ToolCall())


@pytest.mark.filterwarnings("error")
def test_a_supported_template_has_no_remarks() -> None:
    tell(made(CHATML), ToolCall())
    tell(made("{{ strftime_now('%Y') }}" + CHATML, template_args={"today": "2025-01-01"}), ToolCall())


def test_a_tokenizer_that_normalizes_is_reported() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert "NFC" in lines(ChatTemplate(tokenizer))["spelling"].cure


def test_more_end_tokens_count_if_they_are_control_tokens() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|eom|>"]})
    other = tokenizer.convert_tokens_to_ids("<|eom|>")
    template = ChatTemplate(tokenizer, end_ids=[2, other])
    assert template.end_ids == {tokenizer.eos_token_id, other}
    assert "<|eom|>" in lines(template)["end tokens"].detail


def test_the_real_tokenizers_are_right_in_every_line() -> None:
    wrong = []
    for name, tokenizer in real_tokenizers():
        args = {"date_string": "26 Jul 2024"}
        one_after_another = ChatTemplate(tokenizer).renderer.accepts([Message("user", "a"), Message("user", "b")])
        position: HintPosition = "before_action" if one_after_another else "last_message"  # Gemma needs the second
        report = lines(ChatTemplate(tokenizer, position, template_args=args))
        wrong += [(name, line) for line in report.values() if not line.ok and line.name != "tools"]
    assert not wrong
