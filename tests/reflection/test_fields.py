from typing import Any

import pytest

from hero_pl.reflection.fields import read_confidence, read_diagnosis


@pytest.mark.parametrize(
    "value",
    [
        *(None, 3, True, ["x"], {"text": "x"}, "", "   ", "Not applicable."),
        *["n/a", "N/A.", "None", "null", "-", "--", "TBD", "...", "…", "?", "“none”", "(none)", "<diagnosis>", "todo"],
    ],
)
def test_no_text_or_a_placeholder_is_no_diagnosis(value: Any) -> None:
    assert read_diagnosis(value, 800) == ("", ["empty_diagnosis"])


@pytest.mark.parametrize("text", ["Fine.", "None of the calls was needed.", "No.", "Верно.", "7 is wrong"])
def test_a_short_diagnosis_is_a_diagnosis(text: str) -> None:
    assert read_diagnosis(text, 800) == (text, [])


def test_white_space_is_folded_without_an_issue() -> None:
    assert read_diagnosis("  two\n lines\t here ", 800) == ("two lines here", [])


def test_length_is_counted_after_folding() -> None:
    assert read_diagnosis("a" * 10 + " " * 50 + "b" * 10, 21) == ("a" * 10 + " " + "b" * 10, [])


def test_a_long_diagnosis_is_cut_at_the_last_sentence_end_that_fits() -> None:
    text = "First one. Second v1.2 one! Third one is long."
    assert read_diagnosis(text, len(text)) == (text, [])
    assert read_diagnosis(text, len(text) - 1) == ("First one. Second v1.2 one!", ["too_long"])
    assert read_diagnosis(text, 27) == ("First one. Second v1.2 one!", ["too_long"])
    assert read_diagnosis(text, 26) == ("First one.", ["too_long"])


def test_without_a_sentence_end_the_cut_is_between_words_or_hard() -> None:
    assert read_diagnosis("abc def ghi", 8) == ("abc def", ["too_long"])
    assert read_diagnosis("abc def ghi", 7) == ("abc def", ["too_long"])
    assert read_diagnosis("a" * 30, 8) == ("a" * 8, ["too_long"])


@pytest.mark.parametrize("level", ["low", "medium", "high"])
def test_the_three_levels_pass_unchanged(level: str) -> None:
    assert read_confidence(level) == (level, [])


@pytest.mark.parametrize(
    ("value", "level"),
    [
        *[(value, "low") for value in (" low ", "uncertain", "Very-Low", 0, 0.0, 0.39, 2, 39, "39.9%", "0%", "1%")],
        *[(value, "medium") for value in ("Med", "moderate", "mid", 0.4, 0.74, 40, 74, "0.5", "50")],
        *[(value, "high") for value in ("HIGH", "certain", "very high", "very_high", 1, 0.75, 1.0, 75, 85.0, 100)],
        *[(value, "high") for value in ("85%", "85 %", "100%", "1", ".8")],
    ],
)
def test_words_fractions_and_percents_are_normalized(value: Any, level: str) -> None:
    assert read_confidence(value) == (level, ["confidence_normalised"])


@pytest.mark.parametrize(
    "value",
    [
        *(True, False, None, [], ["high"], {"level": "high"}, -0.1, -1, 1.5, 85.5, 101, 10**400),
        *(float("nan"), float("inf"), "", "super sure", "high-ish", "medium high", "101", "150%", "-5%", "8/10"),
    ],
)
def test_anything_else_is_low_and_reported(value: Any) -> None:
    assert read_confidence(value) == ("low", ["bad_confidence"])
