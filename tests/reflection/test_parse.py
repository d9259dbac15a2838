import json
import random
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hero_pl.errors import ConfigError, ReflectionError
from hero_pl.reflection.parse import ReflectionContext, parse_reflection
from hero_pl.types import Diagnosis, Reflection

CALL = {"name": "order", "arguments": {"id": "W4410"}}
ENTRY = {"diagnosis": "Sound step.", "confidence": "high", "next_action_target": None}
NONE = (None, None, None)


def entry(text: str = "Sound step.", confidence: Any = "high", target: Any = None) -> dict[str, Any]:
    return {"diagnosis": text, "confidence": confidence, "next_action_target": target}


def whole(**changes: Any) -> dict[str, Any]:
    return {"turn1": entry("One."), "turn2": entry("Two.", target=CALL), "turn3": entry("Three."), **changes}


def texts(reflection: Reflection) -> list[str | None]:
    return [diagnosis.text if diagnosis else None for diagnosis in reflection.diagnoses]


def blank_context(turns: int) -> ReflectionContext:
    return ReflectionContext("task", ("a",) * turns, ("b",) * turns, (), 1.0)


@pytest.fixture
def parse(episode: ReflectionContext) -> Any:
    def call(raw: Any, **options: Any) -> Reflection:
        text = raw if isinstance(raw, str) else json.dumps(raw)
        return parse_reflection(text, turns=3, context=episode, **options)

    return call


# --- status, strict ---------------------------------------------------------------------------------------------------


def test_one_clean_object_is_ok_and_strict(parse: Any) -> None:
    raw = f"\n {json.dumps(whole(), indent=1)} \n"
    parsed = parse(raw)
    assert (parsed.status, parsed.strict, parsed.issues, parsed.raw) == ("ok", True, (), raw)
    assert parsed.diagnoses == (Diagnosis("One.", "high"), Diagnosis("Two.", "high", CALL), Diagnosis("Three.", "high"))


def test_fields_beyond_the_schema_are_ignored(parse: Any) -> None:
    parsed = parse({**whole(turn1={**entry("One."), "severity": 3}), "summary": "fine"})
    assert (parsed.status, parsed.strict) == ("ok", True)


def test_prose_around_makes_it_ok_but_not_strict(parse: Any) -> None:
    for raw in (
        f"Here: {json.dumps(whole())}",
        f"{json.dumps(whole())} Done {{x}}.",
        f"```json\n{json.dumps(whole())}\n```",
    ):
        assert (parse(raw).status, parse(raw).strict, parse(raw).issues) == ("ok", False, ())


def test_any_issue_makes_it_repaired_and_not_strict(parse: Any) -> None:
    parsed = parse(whole(turn1=entry("One.", "HIGH")))
    assert (parsed.status, parsed.strict) == ("repaired", False)


@pytest.mark.parametrize(
    "raw", ["", "fine", "null", "[]", "{}", "3", '{"summary": "x"}', '{"turn": {}}', "[1, 2]", "{", '"turn1"']
)
def test_without_turn_keys_there_is_no_json(raw: str, parse: Any) -> None:
    parsed = parse(raw)
    assert (parsed.status, parsed.strict) == ("rejected", False)
    assert (parsed.diagnoses, parsed.issues) == (NONE, (("no_json", 0),))


def test_it_is_rejected_when_no_turn_survives(parse: Any) -> None:
    parsed = parse({f"turn{i}": entry("n/a") for i in (1, 2, 3)})
    assert (parsed.status, parsed.strict) == ("rejected", False)
    assert parsed.issues == (("empty_diagnosis", 1), ("empty_diagnosis", 2), ("empty_diagnosis", 3))


# --- thinking, spans, repairs -----------------------------------------------------------------------------------------


def test_text_up_to_the_last_end_of_thinking_is_removed(parse: Any) -> None:
    draft = json.dumps(whole(turn1=entry("Draft.")))
    parsed = parse(f"<think>{draft}</think> hm {draft}</think>{json.dumps(whole())}")
    assert texts(parsed) == ["One.", "Two.", "Three."]
    assert parsed.issues == (("thinking_stripped", 0),)
    assert parse("<think>nothing</think>").issues == (("thinking_stripped", 0), ("no_json", 0))


def test_the_span_that_covers_most_turns_wins(parse: Any) -> None:
    small = json.dumps({"turn1": entry("Small.")})
    for raw in (f"{small} {json.dumps(whole())}", f"{json.dumps(whole())} {small}"):
        assert texts(parse(raw)) == ["One.", "Two.", "Three."]


def test_turns_out_of_range_do_not_count_as_covered(parse: Any) -> None:
    wide = json.dumps({f"turn{i}": entry() for i in range(7, 15)})
    assert texts(parse(f'{{"turn2": {json.dumps(entry("In."))}}} {wide}')) == [None, "In.", None]


def test_on_a_tie_the_later_span_wins(parse: Any) -> None:
    final = whole(turn1=entry("Final."))
    assert texts(parse(f"{json.dumps(whole())} No, wait: {json.dumps(final)}"))[0] == "Final."


@pytest.mark.parametrize(
    "raw",
    [
        '{"turn1": {"diagnosis": "One\nline.", "confidence": "high", "next_action_target": null}}',
        '{"turn1": {"diagnosis": "One line.", "confidence": "high", "next_action_target": null,},}',
        '{"turn1": {"diagnosis": "One line.", "confidence": "high", "next_action_target": None}}',
        "{“turn1”: {“diagnosis”: “One line.”, “confidence”: “high”, “next_action_target”: null}}",
        "{'turn1': {'diagnosis': 'One line.', 'confidence': 'high', 'next_action_target': None}}",
    ],
)
def test_small_mistakes_are_repaired(raw: str) -> None:
    parsed = parse_reflection(raw, turns=1, context=blank_context(1))
    assert parsed.diagnoses == (Diagnosis("One line.", "high"),)
    assert (parsed.status, parsed.strict, parsed.issues) == ("repaired", False, (("json_repaired", 0),))


def test_nothing_is_evaluated(parse: Any) -> None:
    assert parse('{"turn1": __import__("os").getcwd()}').status == "rejected"


def test_an_unfinished_object_keeps_only_complete_turns(parse: Any) -> None:
    text = json.dumps(whole())
    parsed = parse(text[: text.index("Three") + 3])
    assert texts(parsed) == ["One.", "Two.", None]
    assert parsed.issues == (("truncated_output", 0), ("missing_turn", 3))


def test_an_object_that_lacks_only_its_last_brace_keeps_all_turns(parse: Any) -> None:
    parsed = parse(json.dumps(whole())[:-1])
    assert (texts(parsed), parsed.issues) == (["One.", "Two.", "Three."], (("truncated_output", 0),))


@pytest.mark.parametrize("form", ["wrapped", "list"])
def test_unfinished_forms_other_than_the_plain_one_keep_complete_turns_too(form: str, parse: Any) -> None:
    turns: Any = whole() if form == "wrapped" else [{"turn": i, **entry(f"T{i}.")} for i in (1, 2, 3)]
    text = json.dumps({"reflections": turns} if form == "wrapped" else turns)
    parsed = parse(text[: text.rindex("confidence")])
    assert [bool(diagnosis) for diagnosis in parsed.diagnoses] == [True, True, False]
    assert set(parsed.issues) == {("truncated_output", 0), ("key_normalised", 0), ("missing_turn", 3)}


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["Turn 1", "TURN1", "turn_1", "turn_01", "turn-1", "Turn #1", "turn001", "1", "01", " turn1 "]
)
def test_key_variants_are_normalized_once(key: str, parse: Any) -> None:
    rest = {name: value for name, value in whole().items() if name != "turn1"}
    parsed = parse({key: entry("One."), **rest})
    assert (texts(parsed), parsed.issues) == (["One.", "Two.", "Three."], (("key_normalised", 0),))


@pytest.mark.parametrize("key", ["turn", "turn1a", "step1", "turn 1.5", "turnone", "-1", "turn1 turn2", "1e3"])
def test_other_keys_name_no_turn(key: str, parse: Any) -> None:
    assert parse({key: entry()}).issues == (("no_json", 0),)


@pytest.mark.parametrize("number", [1, "1", "turn1", "Turn 01", 1.0])
def test_a_list_of_objects_with_turn_is_read(number: Any, parse: Any) -> None:
    parsed = parse([{"turn": number, **entry("One.")}, {"turn": 3, **entry("Three.")}, {"note": 1}, 7])
    assert texts(parsed) == ["One.", None, "Three."]
    assert parsed.issues == (("key_normalised", 0), ("missing_turn", 2))


@pytest.mark.parametrize("number", [True, None, 1.5, "one", [1]])
def test_a_list_entry_without_a_number_is_no_turn(number: Any, parse: Any) -> None:
    assert parse([{"turn": number, **entry()}]).issues == (("no_json", 0),)


def test_one_wrapping_key_is_taken_off(parse: Any) -> None:
    for wrapped in (
        {"reflections": whole()},
        {"x": [{"turn": i, **ENTRY} for i in (1, 2, 3)]},
        {"n": "ok", "x": whole()},
    ):
        assert parse(wrapped).issues == (("key_normalised", 0),)
        assert all(parse(wrapped).diagnoses)


def test_keys_from_zero_to_one_less_than_the_turns_are_shifted_by_one(parse: Any) -> None:
    parsed = parse({f"turn{i}": entry(f"T{i + 1}.") for i in range(3)})
    assert (texts(parsed), parsed.issues) == (["T1.", "T2.", "T3."], (("zero_indexed", 0),))
    single = parse_reflection(json.dumps({"turn0": ENTRY}), turns=1, context=blank_context(1))
    assert (single.status, single.issues) == ("repaired", (("zero_indexed", 0),))


@pytest.mark.parametrize("numbers", [(0,), (0, 1), (0, 2), (0, 1, 3), (0, 1, 2, 3), (0, 5)])
def test_key_zero_in_any_other_pattern_rejects_everything(numbers: tuple[int, ...], parse: Any) -> None:
    parsed = parse({f"turn{i}": ENTRY for i in numbers})
    assert (parsed.status, parsed.diagnoses, parsed.issues) == ("rejected", NONE, (("ambiguous_indexing", 0),))


def test_an_unfinished_zero_indexed_output_is_ambiguous(parse: Any) -> None:
    text = json.dumps({f"turn{i}": ENTRY for i in range(3)})
    assert parse(text[:-40]).issues == (("truncated_output", 0), ("ambiguous_indexing", 0))


def test_bug_30_a_zero_indexed_reflection_never_lands_one_turn_late(parse: Any) -> None:
    # Each diagnosis names the turn it was written for. Pairing key K with turn K would leave turn 1 empty and put every
    # other diagnosis on the action after the one it is about.
    for form in ("turn{}", "{}", "Turn 0{}"):
        parsed = parse({form.format(i): entry(f"About action number {i + 1}.") for i in range(3)})
        assert texts(parsed) == [f"About action number {i}." for i in (1, 2, 3)]
    listed = parse([{"turn": i, **entry(f"About action number {i + 1}.")} for i in range(3)])
    assert texts(listed) == [f"About action number {i}." for i in (1, 2, 3)]


@pytest.mark.parametrize("second", ["turn1", "Turn 1", "1"])
def test_of_duplicates_the_last_wins(second: str, parse: Any) -> None:
    first, last = json.dumps(entry("First.")), json.dumps(entry("Last."))
    parsed = parse(f'{{"turn1": {first}, "turn2": {first}, "{second}": {last}, "turn3": {first}}}')
    assert texts(parsed) == ["Last.", "First.", "First."]
    assert [code for code, _ in parsed.issues if code != "key_normalised"] == ["duplicate_key"]


def test_a_missing_turn_has_no_hint(parse: Any) -> None:
    parsed = parse({"turn2": entry("Two.")})
    assert (texts(parsed), parsed.issues) == ([None, "Two.", None], (("missing_turn", 1), ("missing_turn", 3)))


def test_a_turn_given_as_null_is_missing_and_covers_nothing(parse: Any) -> None:
    parsed = parse(whole(turn2=None))
    assert (texts(parsed), parsed.issues) == (["One.", None, "Three."], (("missing_turn", 2),))
    listed = [{"turn": 1, **ENTRY}, None, {"turn": 3, **ENTRY}]
    assert parse(listed).issues == (("key_normalised", 0), ("missing_turn", 2))
    nothing = parse(dict.fromkeys(("turn1", "turn2", "turn3")))
    assert (nothing.status, [code for code, _ in nothing.issues]) == ("rejected", ["missing_turn"] * 3)
    again = parse(json.dumps(whole()) + json.dumps(dict.fromkeys(("turn1", "turn2", "turn3"))))
    assert texts(again) == ["One.", "Two.", "Three."]


def test_turns_after_the_end_are_dropped(parse: Any) -> None:
    parsed = parse(whole(turn4=ENTRY, turn17=ENTRY))
    assert (texts(parsed), parsed.issues) == (["One.", "Two.", "Three."], (("extra_turn", 4), ("extra_turn", 17)))


def test_nothing_in_range_is_rejected(parse: Any) -> None:
    parsed = parse({"turn7": ENTRY})
    assert (parsed.status, parsed.diagnoses) == ("rejected", NONE)
    assert parsed.issues == (("no_turn_in_range", 0),)


def test_the_order_of_keys_changes_nothing(parse: Any) -> None:
    turns = list(whole(turn1=entry("One.", 0.9), turn3=entry("n/a"), turn9=ENTRY).items())
    expected = parse(dict(turns))
    for seed in range(10):
        random.Random(seed).shuffle(turns)
        shuffled = {key: dict(random.Random(seed).sample(list(value.items()), 3)) for key, value in turns}
        parsed = parse(shuffled)
        assert (parsed.diagnoses, parsed.status, parsed.issues) == (
            expected.diagnoses,
            expected.status,
            expected.issues,
        )


# --- fields in their turn ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [5, True, [], ["x"], {}, {"confidence": "high"}, {"diagnosis": ["x"]}])
def test_a_turn_without_a_diagnosis_is_empty(value: Any, parse: Any) -> None:
    parsed = parse(whole(turn2=value))
    assert (texts(parsed), parsed.issues) == (["One.", None, "Three."], (("empty_diagnosis", 2),))


def test_a_bare_string_is_a_diagnosis_of_low_confidence(parse: Any) -> None:
    parsed = parse(whole(turn2="Two, just so."))
    assert parsed.diagnoses[1] == Diagnosis("Two, just so.", "low")
    assert parsed.issues == (("bare_string_turn", 2), ("bad_confidence", 2))
    assert parse(whole(turn2="N/A")).issues == (("bare_string_turn", 2), ("empty_diagnosis", 2))


def test_issues_name_their_turn(parse: Any) -> None:
    parsed = parse(
        whole(
            turn1=entry("One.", 0.9, "[]"),
            turn2=entry("Long. " * 200, "sure"),
            turn3=entry("Three.", "high", {"name": "x"}),
        )
    )
    assert parsed.issues == (
        *(("confidence_normalised", 1), ("bad_target", 1)),
        *(("too_long", 2), ("bad_confidence", 2)),
        ("unknown_tool", 3),
    )


def test_the_longest_diagnosis_is_a_setting(parse: Any) -> None:
    long = "A sentence of thirty letters. " * 40
    assert len(texts(parse(whole(turn1=entry(long))))[0] or "") == 26 * 30 - 1
    assert texts(parse(whole(turn1=entry(long)), max_diagnosis_chars=60))[0] == (long[:59])


# --- leaks ------------------------------------------------------------------------------------------------------------

LATER_WORDS = "Good, the refund goes to the card on file within ten days."
LATER_NAME = "Should have refunded item 8301557 at once."


def test_a_diagnosis_that_tells_the_future_is_dropped(parse: Any) -> None:
    parsed = parse(whole(turn1=entry(LATER_WORDS), turn2=entry(LATER_NAME)))
    assert texts(parsed) == [None, None, "Three."]
    assert parsed.issues == (("leak_ngram", 1), ("leak_identifier", 2))


def test_what_the_turn_itself_brought_is_no_leak(parse: Any) -> None:
    assert parse(whole(turn3=entry(LATER_WORDS + " " + LATER_NAME))).issues == ()


def test_redaction_keeps_the_turn_without_the_words(parse: Any) -> None:
    parsed = parse(whole(turn1=entry(LATER_WORDS), turn2=entry(LATER_NAME)), leak_policy="redact")
    assert texts(parsed) == ["Good, [redacted].", "Should have refunded item [redacted] at once.", "Three."]
    assert parsed.issues == (("leak_ngram", 1), ("leak_identifier", 2))


def test_a_diagnosis_of_which_nothing_remains_is_dropped(parse: Any) -> None:
    assert texts(parse(whole(turn1=entry("8301557.")), leak_policy="redact"))[0] is None


def test_flagging_reports_and_changes_nothing(parse: Any) -> None:
    target = {"name": "refund", "arguments": {"item": "8301557"}}
    parsed = parse(whole(turn1=entry(LATER_WORDS, target=target)), leak_policy="flag")
    assert parsed.diagnoses[0] == Diagnosis(LATER_WORDS, "high", target)
    assert parsed.issues == (("leak_ngram", 1), ("target_leak", 1))


@pytest.mark.parametrize("policy", ["drop", "redact"])
def test_a_leak_in_the_target_alone_drops_the_target(policy: Any, parse: Any) -> None:
    parsed = parse(
        whole(turn2=entry("Two.", target={"name": "refund", "arguments": {"item": "8301557"}})), leak_policy=policy
    )
    assert parsed.diagnoses[1] == Diagnosis("Two.", "high")
    assert parsed.issues == (("target_leak", 2),)


@given(st.integers(2, 8), st.text(alphabet=string.ascii_lowercase, min_size=3, max_size=8), st.integers(1000, 9999))
def test_bug_31_a_canary_of_the_last_reply_survives_in_no_earlier_turn(turns: int, name: str, number: int) -> None:
    canary = f"{name}{number}"
    context = ReflectionContext("task", ("act",) * turns, ("ok",) * (turns - 1) + (f"code: {canary}",), (), 1.0)
    raw = json.dumps({f"turn{i}": entry(f"Should have used {canary.upper()}.") for i in range(1, turns + 1)})
    for policy in ("drop", "redact"):
        parsed = parse_reflection(raw, turns=turns, context=context, leak_policy=policy)  # type: ignore[arg-type]
        assert all(canary not in (text or "").lower() for text in texts(parsed)[:-1])
        assert texts(parsed)[-1] == f"Should have used {canary.upper()}."
        assert {turn for code, turn in parsed.issues if code == "leak_identifier"} == set(range(1, turns))


# --- windows, settings ------------------------------------------------------------------------------------------------


def test_a_window_asks_only_for_its_turns(parse: Any) -> None:
    parsed = parse({"turn2": entry("Two."), "turn3": entry("Three.")}, window=(2, 3))
    assert (texts(parsed), parsed.status, parsed.strict) == ([None, "Two.", "Three."], "ok", True)
    assert parse({"turn1": ENTRY, "turn3": ENTRY}, window=(2, 3)).issues == (("extra_turn", 1), ("missing_turn", 2))


def test_a_window_never_shifts_keys(parse: Any) -> None:
    assert parse({"turn0": ENTRY, "turn1": ENTRY}, window=(1, 2)).issues == (("ambiguous_indexing", 0),)


def test_bug_770_an_answer_that_may_count_the_turns_of_the_window_is_not_guessed(parse: Any) -> None:
    parsed = parse({"turn1": entry("Of 1, or of 2?"), "turn2": entry("Of 2, or of 3?")}, window=(2, 3))
    assert (texts(parsed), parsed.issues) == ([None, None, None], (("ambiguous_indexing", 0),))
    assert texts(parse({f"turn{i}": entry(f"{i}.") for i in (1, 2, 3)}, window=(2, 3))) == [None, "2.", "3."]


@pytest.mark.parametrize("option", [{"leak_policy": "keep"}, {"leak_ngram": 1}, {"max_diagnosis_chars": 0}])
def test_a_setting_out_of_range_is_refused(option: dict[str, Any], parse: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        parse("{}", **option)


def test_the_context_of_another_episode_is_refused() -> None:
    with pytest.raises(ReflectionError, match="2 turns got the context of an episode with 3"):
        parse_reflection("{}", turns=2, context=blank_context(3))
    with pytest.raises(ReflectionError, match="one of each per turn"):
        ReflectionContext("", ("a",), (), (), 0.0)


def test_a_context_reads_task_tools_and_turns_of_a_trajectory(episode: ReflectionContext) -> None:
    assert episode.tools == ("find", "order", "refund")
    assert "Confirm identity first." in episode.context
    assert "W4410" in episode.context
    assert '"refund"' in episode.context
    assert (len(episode.actions), episode.observations[1], episode.final_reward) == (3, "no such order", 1.0)
