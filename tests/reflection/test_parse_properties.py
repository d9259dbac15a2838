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
            [
                *(None, "null", CALL, json.dumps(CALL), [], {"name": "refund", "arguments": {}}, "Which order?"),
                *({"action": "click[x]"}, {"action": CALL}, {"action": {"action": None}}, "Action: find[x]", {}),
                {"name": "respond", "arguments": {"content": "Which order?"}},
            ]
        ),
    },
)
OUTPUTS = st.dictionaries(st.integers(0, 5).map(lambda i: f"turn{i}"), ENTRIES | st.text() | st.none(), max_size=5)
DIALOGUE = ReflectionContext("t", ("click[x]", "Hello.", ""), ("a", "b", "c"), (), 0.0)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(st.sets(st.integers(1, 4), min_size=1), st.booleans())
def test_bug_844_a_part_of_an_answer_that_counts_the_turns_of_its_window_is_not_guessed(
    turns: set[int], cut: bool
) -> None:
    written = json.dumps({f"turn{i}": {"diagnosis": f"Part {i} was wrong.", "confidence": "high"} for i in turns})
    text = written[:-1] + ', "turn4": {"diagnosis": "This one' if cut else written
    parsed = parse_reflection(text, turns=6, context=blank(6), window=(3, 6))
    if min(turns) < 3:  # turns 1 to 4 of the episode, or of the window?
        assert (parsed.status, parsed.issues[-1]) == ("rejected", ("ambiguous_indexing", 0))


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


@settings(max_examples=100)
@given(ANY_JSON, st.sampled_from([CONTEXT, DIALOGUE]))
def test_any_json_as_turn_and_as_target_is_read_and_read_again_alike(value: Any, context: ReflectionContext) -> None:
    turn = {"diagnosis": "Fine.", "confidence": "high", "next_action_target": value}
    reflection = parse_reflection(json.dumps({"turn1": turn, "turn2": value}), turns=3, context=context)
    assert reflection.diagnoses[0] is not None
    again = parse_reflection(dump_reflection(reflection), turns=3, context=context)
    assert again.diagnoses == reflection.diagnoses
    assert dict(reflection.issues).get("missing_turn") == 3 or value is None
    json.dumps([one.next_action_target for one in reflection.diagnoses if one]).encode()


@settings(max_examples=60)
@given(OUTPUTS, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(output: dict[str, Any], chance: Any) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = list(value)
        chance.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    one = parse_reflection(json.dumps(output), turns=3, context=CONTEXT)
    other = parse_reflection(json.dumps(shuffled(output)), turns=3, context=CONTEXT)
    assert (one.diagnoses, one.status, set(one.issues)) == (other.diagnoses, other.status, set(other.issues))


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from("ABCDE")), min_size=1, max_size=8))
def test_of_duplicate_keys_the_last_wins(pairs: list[tuple[int, str]]) -> None:
    members = [f'"turn{i}": {{"diagnosis": "It is {word}.", "confidence": "low"}}' for i, word in pairs]
    reflection = parse_reflection("{" + ", ".join(members) + "}", turns=3, context=CONTEXT)
    last = dict(pairs)
    assert [one and one.text for one in reflection.diagnoses] == [
        f"It is {last[i]}." if i in last else None for i in (1, 2, 3)
    ]
    assert (("duplicate_key", 0) in reflection.issues) == (len(last) < len(pairs))


@given(st.text(alphabet=st.sampled_from("a\ud83d\ude00\udfff\ud800 "), max_size=12))
def test_lone_surrogates_never_reach_a_record(text: str) -> None:
    for raw in (json.dumps({"turn1": {"diagnosis": f"x{text}"}}), f'{{"turn1": {{"diagnosis": "x{text}"}}}}'):
        (diagnosis,) = parse_reflection(raw, turns=1, context=blank(1)).diagnoses
        assert diagnosis is not None
        diagnosis.text.encode()


def test_one_turn_and_sixty_turns_are_read_alike() -> None:
    for turns in (1, 60):
        raw = json.dumps({f"turn{i}": {"diagnosis": f"T{i}.", "confidence": "high"} for i in range(1, turns + 1)})
        reflection = parse_reflection(raw, turns=turns, context=blank(turns))
        assert [diagnosis and diagnosis.text for diagnosis in reflection.diagnoses] == [
            f"T{i}." for i in range(1, turns + 1)
        ]
        assert reflection.strict


@pytest.mark.parametrize("unit", ["{", "[", '{"turn1":', '[{"turn":1,"x":', "{'turn1': '"])
def test_a_megabyte_of_nested_braces_is_read_to_an_end(unit: str) -> None:
    reflection = parse_reflection(unit * (1_000_000 // len(unit)), turns=3, context=CONTEXT)
    assert reflection.diagnoses[1:] == (None, None)  # quadratic work takes hours: see what `scan` reads
