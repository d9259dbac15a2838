"""Reasoning never reaches the environment, and a reply that was cut inside its reasoning is not an action."""

import pytest

from hero_pl.chat.actions import PlainText, ReAct, ToolCall
from hero_pl.chat.reasoning import PAIRS, UNFINISHED, inside_reasoning, reasoning_ids, without_thinking

CALL = '<tool_call>{"name": "cancel", "arguments": {}}</tool_call>'
PARSERS = [PlainText(), ToolCall(), ReAct()]


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: type(parser).__name__)
@pytest.mark.parametrize(("start", "end"), PAIRS)
def test_a_reply_cut_inside_its_reasoning_does_nothing(parser, start: str, end: str) -> None:
    for reply in (f"{start}Action: {CALL}", f"{start}a{end} Action: b {start} c", f"words {start} more"):
        assert parser.parse(reply).malformed == UNFINISHED
        assert parser.parse(reply).action == ""
    assert "private" not in parser.parse(f"{start}private{end}Action: go").action


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: type(parser).__name__)
def test_reasoning_that_the_prompt_opened_has_to_end_as_well(parser) -> None:
    assert parser.parse(f"Action: {CALL}", opened=True).malformed == UNFINISHED
    assert parser.parse("hm</think>Action: go", opened=True).action in ("Action: go", "go")


def test_what_follows_the_last_reasoning_counts() -> None:
    assert without_thinking("a</think>b[/THINK]c") == "c"
    assert not inside_reasoning("<think>a</think>b", opened=True)
    assert inside_reasoning("<think>a</think>b<think>")


def test_the_ids_of_reasoning_end_with_the_one_that_closes_it() -> None:
    ids = tuple(map(ord, "<think>a</think>\n\nb"))
    spell = lambda part: "".join(map(chr, part))  # noqa: E731
    assert reasoning_ids(ids, spell) == 16
    assert reasoning_ids(ids, spell, with_blanks=True) == 18
    assert reasoning_ids(ids[17:], spell) == 0
