"""Only what follows the reasoning is a review: drafts are not, and quoted markers are no reasoning."""

import json
from typing import Any

import pytest

from hero_pl.reflection.context import ReflectionContext
from hero_pl.reflection.parse import AnswerForm, parse_reflection
from hero_pl.types import Reflection

EPISODE = ReflectionContext("Buy a lamp.", ("search[lamp]", "click[blue]"), ("two lamps", "blue chosen"), (), 0.5)
LINES = "turn1: Right.\nturn2: Wrong color.\n"


def review(first: str = "Right.") -> str:
    return json.dumps(
        {
            "turn1": {"diagnosis": first, "confidence": "high"},
            "turn2": {"diagnosis": "Wrong color.", "confidence": "high"},
        }
    )


def read(raw: str, **settings: Any) -> Reflection:
    return parse_reflection(raw, turns=2, context=EPISODE, **settings)


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(("form", "draft"), [("json", review()), ("lines", LINES)])
def test_bug_730_a_review_cut_inside_its_reasoning_has_no_entries(form: AnswerForm, draft: str, ended: bool) -> None:
    for raw, opened in (
        (f"<think>A first try:\n{draft} But wait, turn 2 was", False),
        (f"[THINK]fine[/THINK] <think>{draft}", False),
        (f"A first try:\n{draft} But wait, turn 2 was", True),
        (f"{draft} But wait, turn 2 was", True),
    ):
        reflection = read(raw, form=form, ended=ended, opened=opened)
        assert (reflection.diagnoses, reflection.status, reflection.strict) == ((None, None), "rejected", False)
        assert reflection.issues == (("unfinished_reasoning", 0),)


@pytest.mark.parametrize(("form", "draft"), [("json", review()), ("lines", LINES)])
def test_an_answer_after_reasoning_that_the_prompt_opened_is_read(form: AnswerForm, draft: str) -> None:
    reflection = read(f"{draft} But wait.</think>\n{draft}", form=form, opened=True)
    assert all(reflection.diagnoses)
    assert reflection.issues == (("thinking_stripped", 0),)


@pytest.mark.parametrize("quoted", ["The reply had </think> twice.", "The reply had <think> and no end."])
def test_bug_730_an_answer_may_quote_the_markers_of_reasoning(quoted: str) -> None:
    answer = review(quoted)
    for raw in (answer, f"```json\n{answer}\n```", f"turn1: {quoted}\nturn2: Wrong color."):
        reflection = read(raw, form="lines" if raw.startswith("turn") else "json")
        assert [one and one.text for one in reflection.diagnoses] == [quoted, "Wrong color."]
        assert (reflection.status, reflection.issues) == ("ok", ())


def test_an_answer_after_reasoning_may_quote_its_opening_marker() -> None:
    reflection = read(f"<think>Hm.</think>{review('It wrote <think> again.')}")
    assert [bool(one) for one in reflection.diagnoses] == [True, True]
