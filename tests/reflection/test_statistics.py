from collections.abc import Sequence

import pytest

from hero_pl.reflection.prompt import ReflectorRequest
from hero_pl.reflection.review import Answer, Question, Review
from hero_pl.reflection.statistics import reflection_statistics
from hero_pl.scalars import add_up, measured
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn

CALL = {"name": "x"}
BATCH = [
    Reflection((Diagnosis("abcd", "high", CALL), Diagnosis("ab", "low")), "ok", strict=True, tokens=10),
    Reflection(
        (None, Diagnosis("abcdef", "high"), None, None),
        "repaired",
        issues=(
            ("leak_ngram", 1),
            ("target_leak", 2),
            ("leak_identifier", 2),
            ("missing_turn", 3),
            ("missing_turn", 4),
        ),
        tokens=20,
    ),
    Reflection((None, None), "rejected", issues=(("no_json", 0),), tokens=3),
    Reflection((), "rejected"),
]


TURN = (Turn(1, (1,), (2,), (0.0,), "go", "go", "over", "user"),)


def answers(questions: Sequence[Question]) -> list[Answer]:
    return [Answer('{"turn1": {"diagnosis": "Right.", "confidence": "high"}}') for _ in questions]


def test_every_number_by_hand() -> None:
    assert measured(reflection_statistics(BATCH)) == pytest.approx(
        {
            "strict_rate": 1 / 3,
            "repaired_rate": 1 / 3,
            "rejected_rate": 1 / 3,
            "without_turns": 1,
            "coverage": 3 / 8,
            "leak_rate": 2 / 8,
            "target_rate": 1 / 3,
            "diagnosis_chars": (4 + 2 + 6) / 3,
            "tokens": 33,
            "retries": 0,
            "confidence/low": 1 / 3,
            "confidence/medium": 0,
            "confidence/high": 2 / 3,
            "issues/leak_identifier": 1,
            "issues/leak_ngram": 1,
            "issues/missing_turn": 2,
            "issues/no_json": 1,
            "issues/target_leak": 1,
        }
    )


def test_shares_of_nothing_are_not_measured() -> None:
    assert measured(reflection_statistics([])) == {"without_turns": 0.0, "tokens": 0.0, "retries": 0.0}


def test_bug_738_an_episode_that_nobody_was_asked_about_is_no_rejected_review() -> None:
    short, played = (
        Trajectory("t", "e", 0, 0, "s", (), "o", turns, 0.0, StopReason.CONTEXT_FULL) for turns in ((), TURN)
    )
    reviews = Review().run([short, played], lambda trajectory: [ReflectorRequest((), (1, 1))], answers)
    found = measured(reflection_statistics(reviews))
    assert (found["rejected_rate"], found["strict_rate"], found["without_turns"]) == (0.0, 1.0, 1.0)
    alone = measured(reflection_statistics(reviews[:1]))
    assert "rejected_rate" not in alone


def test_over_two_ranks_shares_are_of_what_they_are_shares_of() -> None:
    ranks = [reflection_statistics(BATCH[:1]), reflection_statistics(BATCH[1:])]  # 2 and 6 turns; 1 and 3 episodes
    assert measured(add_up(ranks)) == pytest.approx(measured(reflection_statistics(BATCH)))
