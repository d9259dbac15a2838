"""Contexts of a feedback teacher: each decision once, by slot and outcome."""

import sys
from pathlib import Path

import feedback_ceiling
import pytest
from feedback_ceiling import CASES, SLOTS, cases
from skills_probe import load

from hero_pl.types import StopReason, Trajectory, Turn

FIRST = "find: buy a pine lamp with color: red, and size: tiny"
PAGES = [
    "results: wool lamp | pine lamp ; < prev",
    "pine lamp ; color: blue | red ; < prev",
    "pine lamp ; color blue ; size: tiny | small ; < prev",
    "pine lamp ; color blue ; size tiny ; buy now",
    "done",
]


def episode(reward: float, color: str, prompt: tuple[int, ...]) -> Trajectory:
    """The shortest way, with this color; every turn after the same context."""
    actions = ["search[lamp]", "click[pine lamp]", f"click[{color}]", "click[tiny]", "click[buy now]"]
    turns = tuple(
        Turn(i, prompt, (2,), (0.0,), action, action, reply, "user")
        for i, (action, reply) in enumerate(zip(actions, PAGES, strict=True), 1)
    )
    return Trajectory("t", "shop", 0, 0, "", (), FIRST, turns, reward, StopReason.TERMINATED)


def test_every_decision_is_asked_once_by_what_happened_there() -> None:
    policy = load("hero_pl:pocket-shop")
    prompt = policy.template.first_prompt("", FIRST, "user", ())
    parts_of = cases(policy, [episode(0.5, "blue", prompt), episode(1.0, "red", prompt)])
    asked = {key: [(number, label) for number, _, label in parts] for key, parts in parts_of.items() if parts}
    assert asked == {
        ("item", "right, reward below 1"): [(0, "click[pine lamp]")],
        ("color", "wrong, reward below 1"): [(0, "click[red]")],
        ("size", "right, reward below 1"): [(0, "click[tiny]")],
        ("item", "right, reward 1"): [(1, "click[pine lamp]")],
        ("color", "right, reward 1"): [(1, "click[red]")],
        ("size", "right, reward 1"): [(1, "click[tiny]")],
    }
    contexts = {context for parts in parts_of.values() for _, context, _ in parts}
    assert all(len(context) > len(prompt) for context in contexts), "with the observation and the reward"


def test_the_table_has_a_row_per_policy_and_case(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["hero_pl:pocket-shop", "--episodes", "20", "--out", str(tmp_path / "table.md")]
    monkeypatch.setattr(sys, "argv", ["feedback_ceiling.py", *words])
    feedback_ceiling.main()
    table = (tmp_path / "table.md").read_text()
    assert table.strip() in capsys.readouterr().out
    assert [line.split(" | ")[1] for line in table.splitlines() if line.startswith("| pocket-shop")] == list(CASES)
    assert all(f"P(right {slot})" in table for slot in SLOTS)
