"""Properties of the parser that hold for every output, good or bad."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hero_pl.reflection.parse import ReflectionContext, dump_reflection, parse_reflection

CALL = {"name": "order", "arguments": {"id": "W4410"}}
CONTEXT = ReflectionContext(
    "Return the kettle of order W4410.",
    ('{"name": "find", "arguments": {}}', '{"name": "order", "arguments": {"id": "W4401"}}', '{"item": "8301557"}'),
    ("user_2290", "no such order", "the refund goes to the card on file"),
    ("find", "order", "refund"),
    1.0,
)


def blank(turns: int) -> ReflectionContext:
    return ReflectionContext("task", ("a",) * turns, ("b",) * turns, (), 1.0)


WORDS = st.lists(
    st.sampled_from(
        ["the", "order", "was", "wrong", "'so'", '"it"', "failed.", "\n", "–", "{}", "[x]", "W4410", "8301557", "ok"]
    ),
    max_size=30,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "diagnosis": WORDS.map(" ".join) | st.text() | st.none() | st.integers(),
        "confidence": st.sampled_from(["low", "high", "HIGH", 0.5, 90, True, "x"]) | st.floats() | st.none(),
        "next_action_target": st.sampled_from(
            [None, "null", CALL, json.dumps(CALL), [], {"name": "refund", "arguments": {}}]
        ),
    },
)
OUTPUTS = st.dictionaries(st.integers(0, 5).map(lambda i: f"turn{i}"), ENTRIES | st.text(), max_size=5)


@settings(max_examples=150)
@given(OUTPUTS, st.sampled_from(["drop", "redact", "flag"]))
def test_a_reflection_is_unchanged_by_its_own_json(output: dict[str, Any], policy: Any) -> None:
    once = parse_reflection(json.dumps(output), turns=3, context=CONTEXT, leak_policy=policy)
    again = parse_reflection(dump_reflection(once), turns=3, context=CONTEXT, leak_policy=policy)
    assert again.diagnoses == once.diagnoses
    assert len(once.diagnoses) == 3
    assert (once.status == "rejected") == (not any(once.diagnoses))
    assert once.strict <= (once.status == "ok") == (not once.issues and once.status != "rejected")


@settings(max_examples=150)
@given(OUTPUTS, st.integers(0, 2000), st.booleans())
def test_truncation_anywhere_never_raises_and_never_invents(output: dict[str, Any], at: int, python: bool) -> None:
    raw = str(output) if python else json.dumps(output)
    full = parse_reflection(raw, turns=3, context=CONTEXT)
    cut = parse_reflection(raw[:at], turns=3, context=CONTEXT)
    if "turn0" not in output and not python:
        assert all(part in (None, one) for part, one in zip(cut.diagnoses, full.diagnoses, strict=True))


@given(st.text(), st.integers(0, 4))
def test_no_text_raises(raw: str, turns: int) -> None:
    assert len(parse_reflection(raw, turns=turns, context=blank(turns)).diagnoses) == turns


@given(st.text(alphabet="{}[]\"'“”:,turn0123 \n\\<think>/", max_size=200))
def test_no_punctuation_raises(raw: str) -> None:
    parse_reflection(raw, turns=3, context=CONTEXT)


def test_one_turn_and_sixty_turns_are_read_alike() -> None:
    for turns in (1, 60):
        raw = json.dumps({f"turn{i}": {"diagnosis": f"T{i}.", "confidence": "high"} for i in range(1, turns + 1)})
        found = parse_reflection(raw, turns=turns, context=blank(turns))
        assert [diagnosis and diagnosis.text for diagnosis in found.diagnoses] == [
            f"T{i}." for i in range(1, turns + 1)
        ]
        assert found.strict


@pytest.mark.parametrize("unit", ["{", "[", '{"turn1":', '[{"turn":1,"x":', "{'turn1': '"])
def test_a_megabyte_of_nested_braces_is_read_to_an_end(unit: str) -> None:
    found = parse_reflection(unit * (1_000_000 // len(unit)), turns=3, context=CONTEXT)
    assert found.diagnoses[1:] == (None, None)  # quadratic work takes hours: see what `scan` reads
