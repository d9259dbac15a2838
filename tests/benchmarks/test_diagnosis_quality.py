"""Raters of the packaged policies' reviews: a small sample, and the labels from a reviewer's verdicts."""

import sys
from pathlib import Path

import diagnosis_quality
import pytest

from hero_pl.annotate.quality import QUESTIONS
from hero_pl.types import Diagnosis

SECOND = Path(diagnosis_quality.__file__).parent / "checkpoints" / "pocket-shop-b"


def test_three_raters_and_both_arms_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--second",
        str(SECOND),
        "--episodes",
        "6",
        "--turns",
        "20",
        "--out",
        str(tmp_path / "raters"),
    ]
    monkeypatch.setattr(sys, "argv", ["diagnosis_quality.py", *words, "--markdown", str(tmp_path / "page.md")])
    diagnosis_quality.main()
    page = (tmp_path / "page.md").read_text()
    assert page.strip() in capsys.readouterr().out
    assert "| measure | true | shuffled |" in page
    assert "| rules and outcome | 1.000 |" in page, "what the rules of the shop call wrong does harm"
    assert "| outcome and second policy | " in page
    names = {path.name for path in (tmp_path / "raters").iterdir()}
    assert names >= {"rules.jsonl", "outcome.jsonl", "second-policy.jsonl", "turns.key.json", "report.json"}


def test_a_reviewer_that_would_have_acted_otherwise_says_mistake() -> None:
    rows = [{"task_id": "t", "seed": 0, "turn": n, "labels": dict.fromkeys(QUESTIONS, True)} for n in (1, 2, 3)]
    call = {"name": "click", "arguments": {"element": "red"}}
    diagnoses = {("t", 0, 1): Diagnosis("wrong: blue", "high", call), ("t", 0, 2): Diagnosis("right: red", "high")}
    rated = diagnosis_quality.by_review(rows, diagnoses | {("t", 0, 3): None})
    assert [row["labels"]["turn_was_error"] for row in rated] == [True, False, None]
    assert all(row["labels"]["grounded"] is None for row in rated)
