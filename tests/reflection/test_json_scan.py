import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hero_pl.reflection.json_scan import MAX_DEPTH, Span, is_complete, plain, scan

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
OBJECTS = st.dictionaries(
    st.text(), st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)), min_size=1
)


def only(text: str) -> Span:
    """The outermost container, which is the first."""
    return next(iter(scan(text)))


@given(OBJECTS, st.sampled_from([None, 1]), st.booleans())
def test_any_json_object_is_read_as_json_reads_it(value: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    span = only(text)
    assert (span.start, span.end, span.repaired, span.truncated) == (0, len(text), False, False)
    assert plain(span.value) == value


@given(OBJECTS)
def test_prose_around_an_object_changes_nothing(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    values = list(scan(f"It's the user's review, I'd say:\n```json\n{text}\n```\nDone :-)"))
    assert [plain(span.value) for span in values] == [value]


@given(st.text(alphabet="{}[]\":,'\\ \nabtn01.-“”", max_size=60))
def test_what_is_called_unrepaired_is_json(text: str) -> None:
    for span in scan(text):
        if is_complete(span.value) and not span.repaired:
            assert json.loads(text[span.start : span.end]) == plain(span.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1,}', {"a": 1}),
        ('{"a": 1,,"b": 2}', {"a": 1, "b": 2}),
        ('{"a": [{"b": 1},]}', {"a": [{"b": 1}]}),
        ('{"a": {"b": 1} "c": 2}', {"a": {"b": 1}, "c": 2}),
        ('{"a": "x" "c": "y"}', {"a": "x", "c": "y"}),
        ('{"a": None, "b": True, "c": False}', {"a": None, "b": True, "c": False}),
        ("{'a': 'it''s', 'b': \"it's\"}", {"a": "it''s", "b": "it's"}),
        ("{'a': 'the user's order, it's late', 'b': 1}", {"a": "the user's order, it's late", "b": 1}),
        (r"{'a': 'it\'s'}", {"a": "it's"}),
        ("{“a”: “x ‘y’ z”, ”b”: ‘it’s’}", {"a": "x ‘y’ z", "b": "it’s"}),
        ('{"a": "straight “curly” straight",}', {"a": "straight “curly” straight"}),
        ('{"a": "two\nlines\ttab"}', {"a": "two\nlines\ttab"}),
        ('{"a": "he said "no", then left", "b": 1}', {"a": 'he said "no", then left', "b": 1}),
        ('{"a": {"t": "call {"x": "y"} failed", "c": 1}}', {"a": {"t": 'call {"x": "y"} failed', "c": 1}}),
        ('{a: 1, turn 2: 3, 4: "x"}', {"a": 1, "turn 2": 3, "4": "x"}),
        ('{"a": medium, "b": 85%}', {"a": "medium", "b": "85%"}),
        ('{"a": "C:\\dir"}', {"a": "C:\\dir"}),
        ('{"a": NaN, "b": 1e999}', {"a": None, "b": None}),
    ],
)
def test_a_small_mistake_is_repaired_and_reported(text: str, value: Any) -> None:
    span = only(text)
    assert plain(span.value) == value
    assert span.repaired
    assert is_complete(span.value)


def test_an_unfinished_object_keeps_what_was_complete() -> None:
    span = only('{"a": {"x": 1}, "b": {"y": "unfinis')
    assert span.truncated
    assert not span.repaired
    assert plain(span.value) == {"a": {"x": 1}, "b": {}}
    assert [is_complete(item) for _, item in span.value.pairs] == [True, False]


def test_an_unfinished_string_number_or_word_is_left_out() -> None:
    for rest in ('"unfinis', "12", "fals", '"a\\'):
        span = only(f'{{"a": {{}}, "b": {rest}')
        assert span.truncated
        assert plain(span.value) == {"a": {}}


def test_a_fence_ends_an_unfinished_object() -> None:
    assert only('```\n{"a": {"x": 1},\n```').truncated


def test_a_broken_rest_is_a_repair_and_what_stood_before_it_stays() -> None:
    span = only('{"a": {"x": 1}, "b": <oops> }')
    assert span.repaired
    assert not span.truncated
    assert plain(span.value) == {"a": {"x": 1}}


def test_a_stray_opening_brace_in_prose_hides_nothing() -> None:
    texts = ['I mean {this: {"a": {"b": 1}}', 'see [1, {"a": {"b": 1}}', 'the "{" brace and [ too {"a": {"b": 1}}']
    for text in texts:
        assert any(plain(span.value) == {"a": {"b": 1}} and is_complete(span.value) for span in scan(text))


def test_braces_and_quotes_inside_strings_do_not_count() -> None:
    value = {"a": 'x } ] " \\ {', "b": "['"}
    assert plain(only(json.dumps(value)).value) == value


def test_duplicates_are_kept_in_order() -> None:
    assert only('{"a": 1, "a": 2}').value.pairs == [("a", 1), ("a", 2)]


def test_surrogates_are_joined_or_replaced() -> None:
    text = plain(only(r'{"a": "\ud83d\ude00 \ud83d"}').value)["a"]
    assert text == "😀 \ufffd"


def test_numbers_too_large_for_a_record_do_not_raise() -> None:
    assert plain(only('{"a": ' + "9" * 5000 + "}").value) == {"a": None}


def test_depth_is_limited_and_what_stands_behind_is_found() -> None:
    deep = '{"a": ' * (MAX_DEPTH + 5)
    assert any(plain(span.value) == {"b": 1} for span in scan(deep + "} " + '{"b": 1}'))


UNITS = ["{", "[", '{"a":', "[{", '{"a": "', "{'", "{“a”: “", '[{"a": [', '{"a": {"b": "c"}, "', '" ', "{ ", ',"', "\\"]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("size", [20_000, 160_000])
def test_work_grows_with_the_length_not_with_its_square(unit: str, size: int) -> None:
    text = '{"x": ' + unit * (size // len(unit))
    read = 0
    for span in scan(text):
        read += span.end - span.start + 32
        # The budget, and the one attempt that used it up. Reading to the end from every brace on would be its square.
        assert read <= (8 * len(text) + 65_536) + (len(text) + 32)
