"""Tool calls in the formats of common models: they are read completely, or are malformed with a reason."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_pl.chat.actions import ReAct, ToolCall
from hero_pl.chat.calls import ARGUMENT_KEYS, MARKERS, NAME_KEYS, WRAPPERS, find_calls

CALL = '{"name": "get", "arguments": {"id": "#1"}}'
READ = {"name": "get", "arguments": {"id": "#1"}}
INNER = '"name": "get", "arguments": {"id": "#1"}'


@pytest.mark.parametrize(
    "reply",
    [
        CALL,
        f"[{CALL}]",
        f"Let me see. {CALL}",
        f"```json\n{CALL}\n```",
        f"I look it up.\n```\n{CALL}\n```",
        f"<tool_call>\n{CALL}\n</tool_call>",
        f"<tool_call>[{CALL}]</tool_call>",
        f"Words <tool_call>{CALL}",
        f"[TOOL_CALLS][{CALL}]",
        f"[TOOL_CALLS] [{CALL}]",
        '[TOOL_CALLS]get[ARGS]{"id": "#1"}',
        '[TOOL_CALLS]get[CALL_ID]x1[ARGS]{"id": "#1"}',
        f"<|python_tag|>{CALL}",
        f"<|tool_call|>[{CALL}]",
        '<function=get>{"id": "#1"}</function>',
        "<tool_call>\n<function=get>\n<parameter=id>\n#1\n</parameter>\n</function>\n</tool_call>",
        '<｜tool▁call▁begin｜>function<｜tool▁sep｜>get\n```json\n{"id": "#1"}\n```<｜tool▁call▁end｜>',
        '{"type": "function", "function": {' + INNER + "}}",
        '{"tool_calls": [{"id": "c", "function": {"name": "get", "arguments": "{\\"id\\": \\"#1\\"}"}}]}',
        '{"function": "get", "args": {"id": "#1"}}',
        *('{"name": "get", "' + key + '": {"id": "#1"}}' for key in ARGUMENT_KEYS),
        *('{"' + key + '": "get", "arguments": {"id": "#1"}}' for key in NAME_KEYS),
        *('{"' + key + '": {' + INNER + "}}" for key in WRAPPERS),
        *(f"{start}{CALL}{stop}" for start, stop in MARKERS),
    ],
)
def test_every_dialect_gives_the_same_action(reply: str) -> None:
    parsed = ToolCall().parse(reply)
    assert parsed.malformed is None
    assert json.loads(parsed.action) == READ
    start, stop = ToolCall().locate(f"So: {reply}") or (0, 0)
    assert "get" in f"So: {reply}"[start:stop]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ('{"name": "get", "payload": {"id": "#1"}}', "'payload'"),
        ('{"name": "get", "arguments": {}, "parameters": {"id": "#1"}}', "'parameters'"),
        ('{"name": "get", "parameters": "#1"}', "must be a JSON object"),
        ('<|python_tag|>shop.get(id="#1")', "must be a JSON object"),
        ('I look. {"name": "get", "argu', "not valid JSON"),
        ("[TOOL_CALLS]", "must be a JSON object"),
        ('{"id": "#1"}', '"name"'),
        ("<tool_call><function=get><parameter=id>#1</function></tool_call>", "closed parameters"),
        ("<tool_call><function=get", "not closed"),
    ],
)
def test_arguments_are_never_lost_and_json_is_never_spoken(reply: str, reason: str) -> None:
    parsed = ToolCall().parse(reply)
    assert parsed.action == ""
    assert reason in str(parsed.malformed)


@pytest.mark.parametrize(
    "reply", ["Hello [1] there", "[1, 2]", "Use {name} here", "```python\nprint(1)\n```", "{not json"]
)
def test_words_with_brackets_are_words(reply: str) -> None:
    assert ToolCall().parse(reply).action == reply
    assert ToolCall().locate(reply) is None


@pytest.mark.parametrize(
    ("reply", "further"),
    [
        (f"<tool_call>{CALL}</tool_call>", 0),
        (f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call><tool_call>{{</tool_call>", 2),
        (f"[TOOL_CALLS][{CALL}, {CALL}]", 1),
        (f"<|python_tag|>{CALL}; {CALL}", 1),
        ('[TOOL_CALLS]get[ARGS]{"id": "#1"}[TOOL_CALLS]b[ARGS]{}', 1),
        ("<tool_call><function=get><parameter=id>#1</parameter></function></tool_call>" * 2, 1),
        (f"{CALL}\n{CALL}", 1),
    ],
)
def test_the_first_call_acts_and_the_others_are_counted(reply: str, further: int) -> None:
    parsed = ToolCall().parse(reply)
    assert json.loads(parsed.action) == READ
    assert parsed.further_calls == further


def test_a_marker_inside_an_argument_is_text() -> None:
    call = {"name": "say", "arguments": {"text": "</tool_call> <tool_call> [TOOL_CALLS] ```"}}
    parsed = ToolCall().parse(ToolCall().write(call))
    assert json.loads(parsed.action) == call
    assert parsed.further_calls == 0


def test_a_tool_without_arguments_may_leave_the_key_out() -> None:
    assert json.loads(ToolCall().parse('<tool_call>{"name": "all"}</tool_call>').action) == {
        "name": "all",
        "arguments": {},
    }


def test_react_reads_the_same_keys_and_its_own_input_line() -> None:
    for reply in (
        'Thought: x\nAction: {"name": "get", "parameters": {"id": "#1"}}',
        f"Action: ```json\n{CALL}\n```",
        'Action: get\nAction Input: {"id": "#1"}',
    ):
        assert json.loads(ReAct().parse(reply).action) == READ
    assert ReAct().parse("Action: get\nAction Input: the first").malformed


TOOLS = [
    {"type": "function", "function": {"name": "other", "parameters": {"properties": {"zip": {"type": "integer"}}}}},
    {
        "type": "function",
        "function": {
            "name": "get",
            "parameters": {
                "type": "object",
                "properties": {
                    "zip": {"type": "string"},
                    "note": {"type": ["string", "null"]},
                    "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                    "count": {"type": "integer"},
                    "sure": {"type": "boolean"},
                    "price": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                    "ids": {"type": "array"},
                    "any": {"description": "no type"},
                },
            },
        },
    },
]


def tagged(**parameters: str) -> str:
    inner = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in parameters.items())
    return f"<tool_call>\n<function=get>\n{inner}</function>\n</tool_call>"


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("parser", [ToolCall(), ReAct()], ids=lambda parser: type(parser).__name__)
def test_bug_721_the_schema_says_of_which_type_a_value_in_a_tag_is(parser, wrapped: bool) -> None:
    tools = TOOLS if wrapped else [tool["function"] for tool in TOOLS]
    texts = {"zip": "9377", "note": "null", "either": "5", "count": "3", "sure": "true", "price": "3.5"}
    texts |= {"ids": '["1", 2]', "any": "9377", "unknown": '{"a": 1}', "other": "0123"}
    parsed = parser.parse(f"Action: {tagged(**texts)}", tools=tools)
    assert json.loads(parsed.action)["arguments"] == {
        **{"zip": "9377", "note": "null", "either": "5", "count": 3, "sure": True, "price": 3.5},
        **{"ids": ["1", 2], "any": "9377", "unknown": {"a": 1}, "other": "0123"},
    }
    wrong = json.loads(parser.parse(f"Action: {tagged(count='three', ids='[1', sure='')}", tools=tools).action)
    assert wrong["arguments"] == {"count": "three", "ids": "[1", "sure": ""}  # the environment says what is wrong


def test_bug_721_without_a_schema_only_lists_and_objects_are_decoded() -> None:
    texts = {"a": "null", "b": "9377", "c": '"quoted"', "d": "true", "e": "[1]", "f": '{"x": 1}', "g": "{red}"}
    found = json.loads(ToolCall().parse(tagged(**texts)).action)["arguments"]
    assert found == texts | {"e": [1], "f": {"x": 1}}


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "[-1e999]"])
def test_bug_721_an_action_is_always_json(value: str) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    parsed = ToolCall().parse(tagged(price=value, ids=value, any=value), tools=TOOLS)
    assert set(json.loads(parsed.action, parse_constant=refuse)["arguments"].values()) == {value}
    for call in (
        f'{{"name": "get", "arguments": {{"price": {value}}}}}',
        f'<function=get>{{"price": {value}}}</function>',
    ):
        for parser in (ToolCall(), ReAct()):
            assert parser.parse(f"Action: {call}" if isinstance(parser, ReAct) else call).malformed
    assert ToolCall().parse(f'<tool_call>{{"name": "get", "arguments": "{{\\"price\\": {value}}}"}}').malformed


PIECES = [
    *(word for pair in MARKERS for word in pair),
    *("<function=f>", "</function>", "<parameter=a>", "</parameter>", "[ARGS]", "```json\n", "```", "Action:"),
    *(
        "Action Input:",
        '{"name": "a"',
        '"arguments": ',
        "{",
        "}",
        "[",
        "]",
        ", ",
        '"',
        "\\",
        "<think>",
        "</think>",
        " ",
    ),
    *(CALL, "1e999", "null", "9" * 5000),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30).map("".join), st.booleans())
def test_a_parser_never_raises_and_gives_an_action_or_a_reason(reply: str, opened: bool) -> None:
    for parser in (ToolCall(), ReAct()):
        parsed = parser.parse(reply, opened)
        assert bool(parsed.action) != bool(parsed.malformed)
        located = parser.locate(reply)
        assert located is None or 0 <= located[0] <= located[1] <= len(reply)


@pytest.mark.parametrize("piece", [*PIECES, "\n", '{"name"', "<parameter=a>1", "[{", "[TOOL_CALLS]a ", '{"a":'])
def test_the_work_grows_with_the_length_of_a_reply_and_not_with_its_square(piece: str) -> None:
    def seconds(size: int) -> float:
        reply = f"<tool_call><function=f>{piece * (size // len(piece))}"
        times = []
        for _ in range(3):
            start = time.process_time()
            find_calls(reply)
            ToolCall().parse(f"x {piece * (size // len(piece))}")
            times.append(time.process_time() - start)
        return min(times)

    # eight times the length: about 8 if linear, 64 if quadratic
    assert seconds(64_000) < 24 * seconds(8_000) + 0.02
