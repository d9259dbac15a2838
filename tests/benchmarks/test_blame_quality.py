"""Blame against an oracle, counted on verdicts written by hand."""

import sys

import blame_quality
import pytest
from blame_quality import Blame, compare

from hero_pl.types import Diagnosis

RIGHT = Diagnosis("right: look", "high")
UNKNOWN = Diagnosis("refused: sing", "high", None, was_failure=True)


def wrong(action):
    return Diagnosis("wrong: sing", "high", {"action": action})


def verdicts(*diagnoses):
    return {("t", 0, number): diagnosis for number, diagnosis in enumerate(diagnoses, 1)}


def test_blame_is_counted_on_the_turns_that_the_oracle_judges():
    truth = verdicts(wrong("open box"), wrong("eat pie"), wrong("go east"), wrong("look"), RIGHT, RIGHT, None)
    said = verdicts(wrong("open box"), wrong("eat hat"), UNKNOWN, None, wrong("look"), RIGHT, wrong("look"))
    blame = compare(truth, said)
    assert blame == Blame(turns=6, diagnosed=5, errors=4, blamed=4, found=3, corrected=1)
    assert [cell[:4] for cell in blame.row("rules")] == ["rule", "0.83", "0.67", "0.75", "0.75", "0.33"]


def test_a_reviewer_that_blames_nothing_has_no_precision():
    assert compare(verdicts(wrong("look")), verdicts(RIGHT)).row("rules")[3:] == ["-", "0.00 (0.00-0.79, n=1)", "-"]


def test_only_suites_with_an_oracle_are_offered(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["blame_quality.py", "--suite", "real-shop"])
    with pytest.raises(SystemExit):
        blame_quality.main()
    assert "real-textworld" in capsys.readouterr().err
