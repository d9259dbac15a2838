"""Corrected actions: which are kept, and their form for the environment and for the policy."""

import json
from typing import Any

import pytest

from hero_pl.chat.actions import PlainText
from hero_pl.reflection.context import ReflectionContext
from hero_pl.reflection.target import canonical_action, read_target, target_reply

CALL = {"name": "order", "arguments": {"id": "W4410"}}


@pytest.mark.parametrize("value", [None, "null", "None", " NULL ", "", "n/a", "-", '"null"'])
def test_a_target_like_null_is_none_without_an_issue(value: Any, episode: ReflectionContext) -> None:
    assert read_target(value, "high", episode, 2) == (None, [])


def test_a_call_of_a_known_tool_is_kept(episode: ReflectionContext) -> None:
    assert read_target(CALL, "high", episode, 2) == (CALL, [])
    assert read_target(CALL, "medium", episode, 2) == (CALL, [])


@pytest.mark.parametrize(
    "text", [json.dumps(CALL), f"  {json.dumps(CALL, indent=1)}\n", json.dumps(CALL).replace('"', "'")]
)
def test_a_json_string_is_decoded(text: str, episode: ReflectionContext) -> None:
    assert read_target(text, "high", episode, 2) == (CALL, ["target_decoded"])


@pytest.mark.parametrize(
    "value", [["order"], 1, 0.5, True, "call order", "[1]", '{"name": "order"', f"do {json.dumps(CALL)}"]
)
def test_another_type_is_a_bad_target(value: Any, episode: ReflectionContext) -> None:
    assert read_target(value, "high", episode, 2) == (None, ["bad_target"])


@pytest.mark.parametrize("value", [{"name": "drop_table"}, {}, {"arguments": {}}, {"name": ["order"]}, {"name": None}])
def test_a_name_that_is_no_tool_is_reported(value: Any, episode: ReflectionContext) -> None:
    assert read_target(value, "high", episode, 2) == (None, ["unknown_tool"])


def test_every_check_of_a_decoded_target_is_reported(episode: ReflectionContext) -> None:
    assert read_target('{"name": "x"}', "high", episode, 2) == (None, ["target_decoded", "unknown_tool"])


def test_a_guess_carries_no_target(episode: ReflectionContext) -> None:
    assert read_target(CALL, "low", episode, 2) == (None, ["target_without_confidence"])


def test_the_action_taken_is_no_correction(episode: ReflectionContext) -> None:
    taken = {"arguments": {"id": "W4401"}, "name": "order"}
    assert read_target(taken, "high", episode, 2) == (None, ["target_equals_action"])
    assert read_target(taken, "high", episode, 1) == (taken, [])


def test_true_and_one_are_different_arguments() -> None:
    episode = ReflectionContext("", ('{"name": "order", "arguments": {"n": 1}}',), ("",), ("order",), 0.0)
    assert read_target({"name": "order", "arguments": {"n": True}}, "high", episode, 1)[1] == []
    assert read_target({"name": "order", "arguments": {"n": 1}}, "high", episode, 1)[1] == ["target_equals_action"]


def test_missing_arguments_are_empty_arguments() -> None:
    episode = ReflectionContext("", ('{"name": "order", "arguments": {}}',), ("",), ("order",), 0.0)
    assert read_target({"name": "order"}, "high", episode, 1)[1] == ["target_equals_action"]


def test_without_tools_a_bracket_action_is_a_target() -> None:
    episode = ReflectionContext("", ("click[red]",), ("",), (), 0.0)
    call = {"name": "click", "arguments": {"argument": "blue [large]"}}
    assert read_target("click[blue [large]]", "high", episode, 1) == (call, [])
    assert read_target("click[red]", "high", episode, 1) == (None, ["target_equals_action"])
    assert read_target("buy it", "high", episode, 1) == (None, ["bad_target"])
    assert read_target({"name": "click", "arguments": {"element": "red"}}, "high", episode, 1)[1] == [
        "target_equals_action"
    ]


def test_with_tools_a_bracket_action_is_a_bad_target(episode: ReflectionContext) -> None:
    assert read_target("order[W4410]", "high", episode, 2) == (None, ["bad_target"])


# -- replies to the user -----------------------------------------------------------------------------------------------

REPLY = {"name": "respond", "arguments": {"content": "Which order is it?"}}
DIALOGUE = ReflectionContext(
    "", ('{"name": "order", "arguments": {"id": "W4401"}}', "Is it  order W4401?"), ("no", "no"), ("order",), 0.0
)


def test_a_reply_to_the_user_is_a_target_as_a_call_and_in_plain_words() -> None:
    for value in (REPLY, {"action": REPLY}, {"action": "Which order is it?"}):
        assert read_target(value, "high", DIALOGUE, 1) == (value, [])
    assert read_target("Which order is it?", "high", DIALOGUE, 1) == (REPLY, [])
    assert read_target(json.dumps(REPLY), "high", DIALOGUE, 1) == (REPLY, ["target_decoded"])


@pytest.mark.parametrize("words", ["Is it order W4401?", "  is it order W4401?\n", "IS IT ORDER W4401?"])
def test_the_reply_that_was_given_is_no_correction(words: str) -> None:
    for value in (words, {"action": words}, {"name": "respond", "arguments": {"content": words}}):
        assert read_target(value, "high", DIALOGUE, 2) == (None, ["target_equals_action"])
        assert read_target(value, "low", DIALOGUE, 2) == (None, ["target_without_confidence"])


def test_a_reply_without_words_is_none() -> None:
    for arguments in ({}, {"content": ""}, {"content": None}, {"content": ["x"]}, "x", None):
        value = {"name": "respond", "arguments": arguments}
        assert read_target(value, "high", DIALOGUE, 1) == (None, ["bad_target"])


def test_words_are_no_target_where_the_environment_takes_no_replies() -> None:
    shop = ReflectionContext("", ("click[red]",), ("",), ("click",), 0.0, plain_replies=False)
    assert read_target(REPLY, "high", shop, 1) == (None, ["unknown_tool"])
    assert read_target("Which one?", "high", shop, 1) == (None, ["bad_target"])
    assert read_target({"action": "Which one?"}, "high", shop, 1) == (None, ["bad_target"])


def test_an_episode_of_calls_alone_takes_words_only_if_the_environment_says_so(episode: ReflectionContext) -> None:
    assert read_target("Which order is it?", "high", episode, 1) == (None, ["bad_target"])
    assert read_target(REPLY, "high", episode, 1) == (REPLY, [])
    context = ReflectionContext("", episode.actions, episode.observations, episode.tools, 0.0, plain_replies=True)
    assert read_target("Which order is it?", "high", context, 1) == (REPLY, [])


def test_the_info_of_the_environment_at_the_start_decides(make_trajectory: Any) -> None:
    trajectory = make_trajectory([json.dumps(CALL)], ["ok"], info={"plain_replies": True})
    assert read_target("Which order is it?", "high", ReflectionContext.of(trajectory), 1) == (REPLY, [])


def test_a_call_with_words_around_it_is_no_reply() -> None:
    for value in (f"Call {json.dumps(CALL)} instead.", '{"name": "order"', "[1]"):
        assert read_target(value, "high", DIALOGUE, 1) == (None, ["bad_target"])


@pytest.mark.parametrize("text", ["<tool_call>\n{}\n</tool_call>", "Action: {}", "```json\n{}\n```", "<tool_call>{}"])
def test_a_call_in_the_dialect_of_the_assistant_is_decoded(text: str) -> None:
    value = text.replace("{}", json.dumps(CALL))
    assert read_target(value, "high", DIALOGUE, 1) == (CALL, ["target_decoded"])


# -- text actions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tools", [(), ("search", "click")])
@pytest.mark.parametrize(
    "value",
    [
        *("click[B07QZ]", " click[B07QZ] ", "Action: click[B07QZ]", {"action": "click[B07QZ]"}),
        {"name": "click", "arguments": {"element": "B07QZ"}},
        {"action": {"name": "click", "arguments": {"argument": "B07QZ"}}},
    ],
)
def test_the_text_action_taken_is_no_correction_in_any_spelling(value: Any, tools: tuple[str, ...]) -> None:
    for action in ("click[B07QZ]", '{"name": "click", "arguments": {"element": "B07QZ"}}'):
        shop = ReflectionContext("", (action, "search[tea]"), ("", ""), tools, 0.0)
        assert read_target(value, "high", shop, 1) == (None, ["target_equals_action"])
        assert read_target(value, "high", shop, 2)[1] == []


def test_case_is_nothing_in_words_and_everything_in_the_arguments_of_a_call(episode: ReflectionContext) -> None:
    shop = ReflectionContext("", ("click[B07QZ]",), ("",), ("click",), 0.0)
    assert read_target("click[b07qz]", "high", shop, 1)[1] == ["target_equals_action"]
    lower = {"name": "order", "arguments": {"id": "w4401"}}
    assert read_target(lower, "high", episode, 2) == (lower, [])


def test_another_text_action_stays_as_it_was_given() -> None:
    shop = ReflectionContext("", ("click[red]",), ("",), (), 0.0)
    value = {"action": "click[B07QZ]"}
    assert read_target(value, "high", shop, 1) == (value, [])
    assert canonical_action(value) == "click[B07QZ]"
    assert read_target({"action": None}, "high", shop, 1) == (None, [])
    assert read_target({"color": "red"}, "high", shop, 1) == (None, ["bad_target"])


def test_a_text_action_names_a_tool_where_there_are_tools() -> None:
    shop = ReflectionContext("", ("click[red]",), ("",), ("search", "click"), 0.0)
    assert read_target("click[blue]", "high", shop, 1) == ({"action": "click[blue]"}, [])
    assert read_target("buy[blue]", "high", shop, 1) == (None, ["unknown_tool"])


def test_actions_in_words_are_targets_where_words_are_actions() -> None:
    house = ReflectionContext("", ("go north", "open door"), ("", ""), (), 0.0)
    assert read_target("go  North", "high", house, 1) == (None, ["target_equals_action"])
    assert read_target("open door", "high", house, 1) == ({"action": "open door"}, [])


def test_what_the_assistant_wrote_in_its_own_dialect_is_no_correction() -> None:
    action = '{"name": "give", "arguments": {"order": "W1", "items": ["a", "b"]}}'
    desk = ReflectionContext("", (action,), ("",), (), 0.0, texts=("<think>x</think>give[W1 | a, b]",))
    assert read_target("give[W1 | a, b]", "high", desk, 1) == (None, ["target_equals_action"])
    assert read_target("give[W1 | a]", "high", desk, 1)[1] == []


def test_composed_and_decomposed_letters_are_the_same_words() -> None:
    cafe = ReflectionContext("", ("click[cafe\u0301]",), ("",), (), 0.0)
    assert read_target("click[caf\u00e9]", "high", cafe, 1) == (None, ["target_equals_action"])


# -- calls in other forms ----------------------------------------------------------------------------------------------


def spellings(name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """The same call in the forms of several models."""
    text = json.dumps(arguments)
    return [
        {"name": name, "parameters": arguments},
        {"name": name, "args": arguments},
        {"name": name, "arguments": text},
        {"type": "function", "function": {"name": name, "arguments": text}},
        {"tool": name, "tool_input": arguments},
        {"action": name, "action_input": arguments},
        {"action": {"name": name, "parameters": arguments}},
    ]


@pytest.mark.parametrize("number", range(7))
def test_bug_731_a_call_in_another_form_is_the_same_call(number: int, episode: ReflectionContext) -> None:
    taken, other = (spellings("order", {"id": one})[number] for one in ("W4401", "W4410"))
    assert read_target(taken, "high", episode, 2) == (None, ["target_decoded", "target_equals_action"])
    for value in (other, json.dumps(other)):
        target, codes = read_target(value, "high", episode, 2)
        assert target is not None
        assert set(codes) == {"target_decoded"}
        assert json.loads(canonical_action(target)) == CALL
        assert json.loads(canonical_action(other)) == CALL


@pytest.mark.parametrize("number", range(7))
def test_bug_731_a_call_in_another_form_is_written_as_a_text_action(number: int) -> None:
    shop = ReflectionContext("", ("click[blue]",), ("",), (), 0.0)
    blue, red = (spellings("click", {"element": one})[number] for one in ("blue", "red"))
    assert read_target(blue, "high", shop, 1)[1][-1] == "target_equals_action"
    target, _ = read_target(red, "high", shop, 1)
    assert target is not None
    assert target_reply(target, PlainText()) == "click[red]"


@pytest.mark.parametrize(
    "value",
    [
        {"name": "order", "arguments": [3]},
        {"name": "order", "arguments": "W4410"},
        {"name": "order", "order_id": "W4410"},
        {"name": "order", "arguments": {}, "parameters": {"id": "W4410"}},
    ],
)
def test_bug_731_a_malformed_call_is_a_bad_target(value: dict[str, Any], episode: ReflectionContext) -> None:
    assert read_target(value, "high", episode, 2) == (None, ["bad_target"])
    assert read_target(json.dumps(value), "high", episode, 2) == (None, ["target_decoded", "bad_target"])
    no_tools = ReflectionContext("", ("click[red]",), ("",), (), 0.0)
    assert read_target(value, "high", no_tools, 1) == (None, ["bad_target"])


def test_bug_731_a_call_with_its_parameters_in_tags_is_no_reply() -> None:
    text = "<function=order>\n<parameter=id>\nW4410\n</parameter>\n</function>"
    for value in (text, f"<tool_call>\n{text}\n</tool_call>"):
        assert read_target(value, "high", DIALOGUE, 1) == (CALL, ["target_decoded"])
    assert read_target(text.replace("</parameter>", ""), "high", DIALOGUE, 1) == (None, ["bad_target"])


def test_arguments_may_be_left_out_and_what_stands_beside_a_call_is_left_out_and_counted(
    episode: ReflectionContext,
) -> None:
    bare = {"name": "find", "arguments": {}}
    assert read_target({"name": "find"}, "high", episode, 2) == (bare, [])
    assert read_target({**CALL, "reason": "It exists."}, "high", episode, 2) == (CALL, ["target_decoded"])
