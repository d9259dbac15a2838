"""The loop of the reflectors: which of two answers is kept, the cost of both, and when the loop ends."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from hero_pl.errors import ConfigError
from hero_pl.policy.base import Policy
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.prompt import requests
from hero_pl.reflection.review import Answer, Question, Review, better_of, incomplete
from hero_pl.types import Diagnosis, Reflection, Trajectory

ONE = Diagnosis("One.", "high")


def answer(*given: int, raw: str, tokens: int = 5, issues: tuple[tuple[str, int], ...] = ()) -> Reflection:
    return Reflection(tuple(ONE if turn else None for turn in given), "repaired", issues=issues, raw=raw, tokens=tokens)


def test_the_answer_that_covers_more_turns_is_kept_and_the_earlier_one_on_a_tie() -> None:
    few, other, many = answer(1, 0, raw="few"), answer(0, 1, raw="other"), answer(1, 1, raw="many")
    assert better_of(few, many).raw == better_of(many, few).raw == "many"
    assert better_of(few, other).raw == "few"


def test_tokens_and_questions_of_both_are_counted() -> None:
    first = answer(0, 0, raw="a", tokens=3, issues=(("no_json", 0),))
    twice = better_of(first, answer(1, 0, raw="b", tokens=4, issues=(("missing_turn", 2),)))
    assert twice.issues == (("missing_turn", 2), ("retried", 0))
    thrice = better_of(twice, answer(1, 1, raw="c", tokens=9))
    assert (thrice.tokens, thrice.issues) == (16, (("retried", 0), ("retried", 0)))


def test_only_turns_of_the_window_can_be_missing() -> None:
    assert incomplete(answer(1, 0, 1, raw=""), (1, 3))
    assert not incomplete(answer(0, 1, 1, raw=""), (2, 3))


class Told(Reflector):
    """A reflector of one method: answers come from a list, one per question."""

    def __init__(self, *answers: Answer, **settings: Any) -> None:
        self.review, self.answers, self.rounds = Review(**settings), iter(answers), []  # type: ignore[var-annotated]

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        return self.review.run(trajectories, partial(requests, max_size=100), self.answer)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        self.rounds.append([(one.request.window[0], one.attempt, round(one.temperature, 1)) for one in questions])
        return [next(self.answers) for _ in questions]


def about(*turns: int) -> Answer:
    return Answer(json.dumps({f"turn{i}": {"diagnosis": "Right.", "confidence": "high"} for i in turns}), 7)


def test_only_incomplete_windows_are_asked_again_ever_warmer(make_trajectory: Callable[..., Trajectory]) -> None:
    episodes = [make_trajectory(["a"] * turns, ["b"] * turns) for turns in (2, 0, 1)]
    reflector = Told(about(1), Answer("sorry", 3), about(1), about(9), about(2), on_invalid="retry", retries=5)
    reflections = reflector.reflect(episodes, None)
    assert reflector.rounds == [[(1, 0, 0.0), (2, 0, 0.0), (1, 0, 0.0)], [(2, 1, 0.2)], [(2, 2, 0.4)]]
    assert [len(one.diagnoses) for one in reflections] == [2, 0, 1]
    assert all(all(one.diagnoses) for one in reflections)
    assert [one.tokens for one in reflections] == [7 + 3 + 7 + 7, 0, 7]
    assert reflections[0].issues.count(("retried", 0)) == 2


def test_a_request_without_an_answer_is_counted_and_not_repeated(trajectory: Trajectory) -> None:
    failed = Answer("", failure="request_failed")
    reflector = Told(failed, about(2), Answer("sorry", 3), failed, on_invalid="retry", retries=5)
    (reflection,) = reflector.reflect([trajectory], None)
    assert reflector.rounds == [[(1, 0, 0.0), (2, 0, 0.0), (3, 0, 0.0)], [(3, 1, 0.2)]]
    assert [bool(diagnosis) for diagnosis in reflection.diagnoses] == [False, True, False]
    unseen = ("future_left_out", 1), ("future_left_out", 2)
    assert reflection.issues == (("request_failed", 0), ("no_json", 0), ("request_failed", 0), *unseen)


@pytest.mark.parametrize(
    "settings",
    [
        *({"on_invalid": "panic"}, {"retries": 0}, {"temperature": -0.1}),
        *({"leak_policy": "hide"}, {"leak_ngram": 1}, {"max_diagnosis_chars": 0}),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_asked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Review(**settings)
