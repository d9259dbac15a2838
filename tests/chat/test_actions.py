"""Replies are data: whatever a model writes is an action or a reason, never an exception."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_pl.chat.actions import ActionParser, ParsedAction, PlainText, ReAct, ToolCall

PARSERS = [PlainText(), ToolCall(), ReAct()]
DEEP = "[" * 10_000 + "]" * 10_000


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: type(parser).__name__)
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["<tool_call>", "</tool_call>", "Action:", "{", "}", '"name"', ":", "</think>"]) | st.text()
    )
)
def test_any_reply_gives_an_action_or_a_reason(parser: ActionParser, pieces: list[str]) -> None:
    parsed = parser.parse("".join(pieces))
    assert bool(parsed.action) != bool(parsed.malformed)


@pytest.mark.parametrize("parser", [ToolCall(), ReAct()], ids=lambda parser: type(parser).__name__)
def test_json_nested_ten_thousand_deep_is_malformed(parser: ActionParser) -> None:
    for call in (f'{{"name": "x", "arguments": {DEEP}}}', json.dumps({"name": "x", "arguments": DEEP})):
        parsed = parser.parse(f"Action: {call}" if isinstance(parser, ReAct) else f"<tool_call>{call}</tool_call>")
        assert parsed.malformed
        assert not parsed.action


@pytest.mark.parametrize("parser", [ToolCall(), ReAct()], ids=lambda parser: type(parser).__name__)
def test_a_written_call_is_read_back(parser: ActionParser) -> None:
    call = {"name": "find", "arguments": {"text": 'a "b" </think ü', "n": [1, None]}}
    written = parser.write(call)
    assert json.loads(parser.parse(f"Action: {written}" if isinstance(parser, ReAct) else written).action) == call


@pytest.mark.parametrize(
    "call",
    [
        "",
        "{",
        "[]",
        "3",
        '{"arguments": {}}',
        '{"name": 3}',
        '{"name": "x", "arguments": []}',
        '{"name": "x", "arguments": "["}',
    ],
)
def test_malformed_tool_calls_carry_a_reason(call: str) -> None:
    parsed = ToolCall().parse(f"<tool_call>{call}</tool_call>")
    assert parsed.malformed
    assert parsed.action == ""


def test_only_the_first_tool_call_counts_and_reasoning_is_ignored() -> None:
    def call(name: str) -> str:
        return ToolCall().write({"name": name, "arguments": {}})

    reply = f"<think>{call('no')}</think>{call('first')}{call('second')}"
    assert json.loads(ToolCall().parse(reply).action)["name"] == "first"


def test_a_cut_off_tool_call_that_is_complete_json_is_still_read() -> None:
    assert json.loads(ToolCall().parse('<tool_call>{"name": "x", "arguments": {}}').action)["name"] == "x"
    assert ToolCall().parse('<tool_call>{"name": "x", "argu').malformed


def test_arguments_written_as_a_string_are_read() -> None:
    parsed = ToolCall().parse('{"name": "x", "arguments": "{\\"a\\": 1}"}')
    assert json.loads(parsed.action) == {"name": "x", "arguments": {"a": 1}}


def test_react_takes_the_last_action_and_tells_what_is_missing() -> None:
    assert ReAct().parse("Action: one\nThought: no\nAction: two").action == "two"
    assert "Action:" in str(ReAct().parse("I would search.").malformed)
    assert ReAct().parse("Thought: x\nAction:  ").malformed


@pytest.mark.parametrize("label", ["Observation:", "Tool result:", "  Observation:"])
def test_bug_723_what_follows_an_invented_observation_is_counted_and_not_executed(label: str) -> None:
    invented = f"Thought: a mug.\nAction: search[red mug]\n{label} [B1] Red mug\nThought: it.\nAction: click[B1]"
    parsed = ReAct().parse(invented)
    assert (parsed.action, parsed.further_calls) == ("search[red mug]", 1)
    start, stop = ReAct().locate(invented) or (0, 0)
    assert invented[start:stop] == "Action: search[red mug]"
    assert ReAct().parse(f"Action: look\n{label} a mug") == ParsedAction("look")
    call = '{"name": "find", "arguments": {"text": "Observation: none"}}'
    for reply in (f"Action: {call}\n{label} x\nAction: {call}", f"Action: find\nAction Input: {call}\n{label} x"):
        assert json.loads(ReAct().parse(reply).action)["name"] == "find"
    assert ReAct().parse(f"Action: {call}\n{label} x\nAction: {call}\nAction: go").further_calls == 2
    assert ReAct().parse(f"Action:\n{label} x\nAction: go").malformed
    assert ReAct().parse(f"{label} from before\nThought: my Action: is clear.\nAction: go") == ParsedAction("go")


def test_bug_723_the_actions_that_the_last_one_replaces_are_counted() -> None:
    assert ReAct().parse("Action: one\nThought: no\nAction: two").further_calls == 1
    assert ReAct().parse("Thought: Action: one or two? Action: two").further_calls == 0


@pytest.mark.parametrize("words", ["Next Action: call me.", "Action: buy", "Type Action Input: 1.", "Type `yes`"])
def test_bug_870_words_of_react_inside_an_action_are_text(words: str) -> None:
    for action in (json.dumps({"name": "respond", "arguments": {"content": words}}), f"say: {words}"):
        assert ReAct().parse(f"Thought: x\n{ReAct().reply(action)}") == ParsedAction(action)
    assert ReAct().parse("Thought: x Action: take").action == "take"
    assert ReAct().parse("Thought: Action: one?\n Action: two").action == "two"
    assert json.loads(ReAct().parse('Action: get Action Input: {"id": 1}').action)["arguments"] == {"id": 1}


def test_react_puts_the_tools_into_the_system_prompt() -> None:
    prompt, tools = ReAct().describe("rules", [{"name": "buy {now}"}])
    assert tools == ()
    assert prompt.startswith("rules")
    assert '"buy {now}"' in prompt


def test_plain_text_writes_the_bracket_grammar_and_shows_no_tools() -> None:
    assert PlainText().write({"name": "click", "arguments": {"element": "red"}}) == "click[red]"
    assert PlainText().describe("rules", [{"name": "click"}]) == ("rules", ())


class Shouted(ToolCall):
    """A format of an own package, from before parsers got the schemas of tools."""

    def read(self, reply: str) -> ParsedAction:  # type: ignore[override]
        return super().read(reply.lower())


def test_an_own_format_need_not_take_the_schemas_of_tools() -> None:
    assert Shouted().parse("WHO ARE YOU?", False, [{"name": "find"}]).action == "who are you?"
