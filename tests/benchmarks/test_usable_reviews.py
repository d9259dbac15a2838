"""Usable reviews are counted, and their verdicts are compared with the rules."""

import sys
from pathlib import Path

import pytest
import usable_reviews
import yaml
from usable_reviews import counts

from hero_pl.chat.actions import PlainText
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.types import Diagnosis, Reflection


def call(element: str) -> dict:
    return {"name": "click", "arguments": {"element": element}}


def test_verdicts_and_targets_are_counted_by_hand() -> None:
    truth = [
        Reflection(
            (Diagnosis("wrong", "high", call("red")), Diagnosis("right", "high"), Diagnosis("x", "high", call("a"))),
            "ok",
        )
    ]
    result = [
        Reflection(
            (
                Diagnosis("no", "medium", {"name": "click", "arguments": {"argument": "Red"}}),
                Diagnosis("no", "medium", call("b")),
                None,
            ),
            "ok",
            tokens=9,
        )
    ]
    total = counts(truth, result, ScriptedPolicy(parser=PlainText()))
    assert total == {"turns": 3, "usable": 2, "blamed": 2, "mistakes": 2, "both": 1, "right": 1, "tokens": 9}


def test_the_page_has_a_row_per_policy_form_and_way_of_drawing(monkeypatch, tmp_path, capsys) -> None:
    pytest.importorskip("xgrammar", reason="needs the extra `constrained`")
    words = [
        "tiny=hero_pl:pocket-shop",
        "--episodes",
        "1",
        "--tokens-per-turn",
        "4",
        "--forms",
        "lines, after the episode",
    ]
    values = yaml.safe_load((Path(usable_reviews.__file__).parents[1] / "configs/smollm2_shop_sft.yaml").read_text())
    del values["data"]["env_args"]["system_prompt"]  # longer than the small policy's context
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(values))
    words += ["--config", str(tmp_path / "short.yaml")]
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["usable_reviews.py", *words, "--out", str(page)])
    usable_reviews.main()
    assert page.read_text().count("| tiny | lines, after the episode |") == 2
    assert page.with_suffix(".json").exists()
