import json
from typing import Any

import pytest

from hero_pl.reflection.context import ReflectionContext
from hero_pl.reflection.leak import LeakIndex, is_identifier, words

EPISODE = ReflectionContext(
    context="Please cancel order W1001 for mia@shop.test today.",
    actions=("look up W1001", "cancel W1001 now", "tell the user about refund R-7782"),
    observations=("status open; item_4412", "done; the money will arrive in about ten days", "thanks, bye"),
    tools=(),
    final_reward=0.75,
)
LEAKS = LeakIndex(EPISODE)


def test_words_are_runs_joined_across_single_punctuation() -> None:
    assert words("A-b_c.d@e#f g--h i. j") == ["a-b_c.d@e#f", "g", "h", "i", "j"]


def test_an_escaped_line_break_of_json_text_separates_words() -> None:
    assert words(r'{"text": "one\ntwo\tX77Z"}') == ["text", "one", "two", "x77z"]


def test_only_plain_letters_and_digits_count() -> None:
    assert words("Überfluß \u212aelvin ſ İ") == ["berflu", "kelvin"]  # the Kelvin sign is composed to the letter


@pytest.mark.parametrize(
    ("word", "expected"), [("w441", True), ("2290", True), ("a1", False), ("x12", False), ("abcd", False)]
)
def test_an_identifier_has_four_characters_and_a_digit(word: str, expected: bool) -> None:
    assert is_identifier(word) is expected


def test_six_words_in_a_row_of_a_later_reply_leak_and_five_do_not() -> None:
    assert (
        LEAKS.find("It worked: the money will arrive in about a week.", 1) == "leak_ngram"
    )  # ... will arrive in about
    assert LEAKS.find("Later the money will arrive in a week.", 1) is None


def test_the_length_of_the_run_is_a_setting() -> None:
    assert LeakIndex(EPISODE, ngram=5).find("Later the money will arrive in a week.", 1) == "leak_ngram"


def test_case_and_punctuation_do_not_hide_a_quotation() -> None:
    assert LEAKS.find("THE MONEY, will: arrive (in) about", 1) == "leak_ngram"


def test_what_the_reply_to_the_turn_says_may_be_quoted() -> None:
    quoted = "The money will arrive in about ten days."
    assert [LEAKS.find(quoted, turn) for turn in (1, 2, 3)] == ["leak_ngram", None, None]


def test_an_identifier_of_the_future_leaks_until_its_turn() -> None:
    assert [LEAKS.find("Refund R-7782 is right.", turn) for turn in (1, 2, 3)] == ["leak_identifier"] * 2 + [None]


def test_an_identifier_of_the_task_or_of_the_turn_itself_does_not_leak() -> None:
    assert LEAKS.find("Order W1001 of mia@shop.test has item_4412.", 1) is None


def test_an_identifier_that_occurs_nowhere_is_no_leak() -> None:
    assert LEAKS.find("Should have used W9999.", 1) is None


def test_the_final_reward_may_be_named() -> None:
    episode = ReflectionContext("t", ("a", "b"), ("c", "score 0.75"), (), 0.75)
    assert LeakIndex(episode).find("It ended with 0.75 only.", 1) is None
    other = ReflectionContext("t", ("a", "b"), ("c", "score 0.85"), (), 0.75)
    assert LeakIndex(other).find("It ended with 0.85 only.", 1) == "leak_identifier"


def test_a_missing_space_does_not_hide_an_identifier() -> None:
    episode = ReflectionContext("t", ("a", "b"), ("c", "code 8301557"), (), 0.0)
    assert LeakIndex(episode).find("Use 8301557.Then stop.", 1) == "leak_identifier"
    assert LeakIndex(episode).find("Use item_8301557 now.", 1) == "leak_identifier"


def test_reasoning_of_later_turns_is_future_and_of_earlier_turns_is_known() -> None:
    episode = ReflectionContext("t", ("a", "b"), ("c", "d"), (), 0.0, texts=("plan Q777", "plan Z888"))
    assert LeakIndex(episode).find("The plan Q777 was good.", 1) is None
    assert LeakIndex(episode).find("The plan Z888 was good.", 1) == "leak_identifier"


def test_what_the_policy_did_later_is_a_correction_of_an_earlier_turn() -> None:
    call = {"name": "transfer_to_human_agents", "arguments": {"summary": "not allowed", "queue": "second line"}}
    episode = ReflectionContext("Cancel it.", ("ask[]", json.dumps(call)), ("Yes.", "Done."), ("ask",), 1.0)
    assert LeakIndex(episode).find(json.dumps(call), 1) == "leak_ngram"
    assert not LeakIndex(episode).in_action(call, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"content": "The money will arrive in about ten days."},
        {"items": ["W1001", ["R-7782"]]},
        {"the money will arrive in about": 1},
        {"item": {"id": "R-7782"}},
    ],
)
def test_a_corrected_action_leaks_by_any_value_or_name(arguments: dict[str, Any]) -> None:
    action = {"name": "respond", "arguments": arguments}
    assert LEAKS.in_action(action, 1)
    assert not LEAKS.in_action(action, 3)


def test_redaction_removes_exactly_the_leaking_words() -> None:
    assert LEAKS.redact("Use refund R-7782, not W1001.", 1) == "Use refund [redacted], not W1001."
    assert LEAKS.redact("So: the money will arrive in about a week.", 1) == "So: [redacted] a week."
    assert LEAKS.redact("Nothing to hide.", 1) == "Nothing to hide."


def test_redacted_text_does_not_leak() -> None:
    text = "Good, R-7782; the money will arrive in about ten days, thanks."
    assert LEAKS.find(text, 1) == "leak_ngram"
    assert LEAKS.find(LEAKS.redact(text, 1), 1) is None


def test_composed_and_decomposed_letters_leak_alike() -> None:
    later = "the cafe\u0301 in the re\u0301publique district closed early"
    episode = ReflectionContext("", ("a", "b"), ("c", later), (), 0.0)
    text = "So the caf\u00e9 in the r\u00e9publique district closed."
    assert LeakIndex(episode).find(text, 1) == "leak_ngram"
    assert LeakIndex(episode).find(text, 2) is None
    assert "district" not in LeakIndex(episode).redact(text, 1)
