"""Which of two answers counts, and what both have cost."""

from hero_pl.reflection.retry import better_of, incomplete
from hero_pl.types import Diagnosis, Reflection

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
