"""A review in plain lines gives the same reflection as one in JSON."""

from typing import Any

import pytest

from hero_pl.reflection.context import ReflectionContext
from hero_pl.reflection.lines import read_lines
from hero_pl.reflection.parse import parse_reflection
from hero_pl.types import Diagnosis, Reflection

EPISODE = ReflectionContext(
    "Buy a red lamp.", ("search[lamp]", "click[blue]", "click[buy now]"), ("two lamps", "blue chosen", "done"), (), 0.5
)


def read(text: str, **settings: Any) -> Reflection:
    return parse_reflection(text, turns=3, context=EPISODE, form="lines", **settings)


def test_each_line_is_a_turn_with_its_corrected_action() -> None:
    reflection = read("turn1: found the lamps\nturn2 (high): red was wanted / do: click[red]\nturn3 (low): too early")
    call = {"name": "click", "arguments": {"argument": "red"}}
    assert reflection.diagnoses == (
        Diagnosis("found the lamps", "medium"),
        Diagnosis("red was wanted", "high", call),
        Diagnosis("too early", "low"),
    )
    assert (reflection.status, reflection.strict, reflection.issues) == ("ok", True, ())


@pytest.mark.parametrize(
    ("text", "issues"),
    [
        ("Turn 1. fine\nTURN_02: Diagnosis: fine\n- turn3: fine", {"key_normalised"}),
        ("Sure, here it is.\nturn1: fine\nturn2: fine\nturn3: fine\nAnything else?", set()),
        ("turn1: fine\n\nturn2: fine\ndo: click[red]\nturn3: fine; do: none", set()),
        ("turn0: fine\nturn1: fine\nturn2: fine", {"key_normalised", "zero_indexed"} - {"key_normalised"}),
        ("turn1: fine\nturn2: fine\nturn3: fine\nturn4: fine", {"extra_turn"}),
        ("turn1: a\nturn1: fine\nturn2: fine\nturn3: fine", {"duplicate_key"}),
    ],
)
def test_small_departures_are_read_and_counted(text: str, issues: set[str]) -> None:
    reflection = read(text)
    assert [diagnosis and diagnosis.text for diagnosis in reflection.diagnoses] == ["fine"] * 3
    assert {code for code, _ in reflection.issues} == issues
    if "do: click[red]" in text:
        assert reflection.diagnoses[1].next_action_target is not None  # type: ignore[union-attr]


def test_what_surrounds_the_lines_is_not_strict_but_no_repair() -> None:
    assert not read("Sure.\nturn1: fine\nturn2: fine\nturn3: fine").strict


def test_the_checks_of_a_diagnosis_hold_for_lines_as_well() -> None:
    reflection = read("turn1: fine / do: search[lamp]\nturn2: / do: click[red]\nturn3: fine / do: dance")
    assert reflection.issues == (("target_equals_action", 1), ("empty_diagnosis", 2), ("bad_target", 3))
    assert [bool(diagnosis) for diagnosis in reflection.diagnoses] == [True, False, True]
    reflection = read("turn1: you should have taken blue chosen later, as blue chosen done says\nturn2: a\nturn3: b")
    assert read("turn1: fine").issues == (("missing_turn", 2), ("missing_turn", 3))
    assert reflection.diagnoses[1] == Diagnosis("a", "medium")


def test_a_diagnosis_that_tells_the_future_is_dropped() -> None:
    late = ReflectionContext("Buy.", ("look", "pay"), ("a shop", "the receipt number is W77812 for two lamps"), (), 1.0)
    text = "turn1: the receipt number is W77812 for two lamps\nturn2: fine"
    reflection = parse_reflection(text, turns=2, context=late, form="lines", leak_ngram=4)
    assert reflection.diagnoses[0] is None
    assert reflection.issues[0][0].startswith("leak")


def test_a_text_without_lines_is_rejected_and_json_is_none() -> None:
    for text in ("", "I would rather not.", '{"turn1": {"diagnosis": "fine"}}'):
        reflection = read(text)
        assert (reflection.status, reflection.issues) == ("rejected", (("no_lines", 0),))


def test_bug_50_a_line_that_was_cut_off_is_left_out_and_counted() -> None:
    text = "turn1: fine\nturn2: fine\nturn3: the bus"
    assert read(text).diagnoses[2] is not None
    reflection = read(text, ended=False)
    assert reflection.diagnoses[:2] == (Diagnosis("fine", "medium"),) * 2
    assert reflection.issues == (("cut_line", 0), ("missing_turn", 3))


def test_windows_keep_other_turns_out() -> None:
    reflection = read("turn1: fine\nturn2: fine", window=(2, 2))
    assert [bool(diagnosis) for diagnosis in reflection.diagnoses] == [False, True, False]


def test_lines_of_any_length_are_read_in_linear_time() -> None:
    entries, whole = read_lines("turn1: " + "do / " * 20_000 + "\n" + "turn " * 20_000)
    assert len(entries) == 1
    assert not whole
