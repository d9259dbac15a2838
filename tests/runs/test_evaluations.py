"""Rows of ``eval.jsonl``: to which evaluation an episode belongs."""

import json
from pathlib import Path

from hero_pl.export.results import evaluations
from hero_pl.runs.compare import compare_runs
from hero_pl.runs.evaluations import cells_of, load_results

ROW = {"stage": "test", "turns_budget": 500, "seed": 0, "reward": 0.0, "turns": 3, "success": False}
USER = {"user": "scripted-full"}
BROKEN = {"evaluable": False}


def run(root: Path, method: str, rows: list[dict]) -> Path:
    folder = root / method
    folder.mkdir()
    lines = [json.dumps({**ROW, "method": method, "task_id": f"task{i % 10}", **row}) for i, row in enumerate(rows)]
    (folder / "eval.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_bug_782_an_episode_that_broke_before_its_user_was_known_is_counted(tmp_path: Path) -> None:
    run(tmp_path, "a", [USER] * 10)
    # the first ones of an evaluation, and all of a later one
    b = run(tmp_path, "b", [BROKEN] * 3 + [USER] * 7 + [{**BROKEN, "turns_budget": 900}] * 10)
    broken = load_results([tmp_path], "success").broken
    assert broken == {("b", ("test", 500, "scripted-full"), ""): 3, ("b", ("test", 900, "scripted-full"), ""): 10}
    assert [(one.broken, one.tasks) for one in compare_runs([tmp_path])] == [(3, 7)]
    counts = [(one.budget, one.broken, one.episodes, one.user) for one in evaluations(b)]
    assert counts == [(500, 3, 7, "scripted-full"), (900, 10, 0, "scripted-full")]


def test_bug_782_the_user_of_a_broken_episode_is_taken_only_if_there_is_one() -> None:
    def users(*rows: dict) -> list[str]:
        return [user for _, _, user in cells_of([{**ROW, **row} for row in rows])]

    assert users(BROKEN, {}) == ["", ""]  # an environment without a user
    assert users(BROKEN, USER, {"user": "llm:m"})[0] == ""  # either could be meant
    assert users(BROKEN, USER, {"user": "llm:m", "turns_budget": 900})[0] == "scripted-full"
    assert users(BROKEN, {**USER, "stage": "validate"})[0] == ""
