"""Two processes of a new run use one folder, so that a rollback finds its checkpoint on both."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from two_processes import finished

pytestmark = pytest.mark.slow


def test_bug_810_a_new_run_of_two_processes_rolls_back(tmp_path):
    limits = {"train/turns": {"high": 2.5, "window": 1}}  # an alarm in the third batch
    changes = {
        "turn_budget": {"max_turns": 30},
        "held_out": {"episodes": 0},
        "collapse_guard": {"action": "rollback", "keep_every": 1, "limits": limits},
    }
    finished(tmp_path, changes)
    runs = tmp_path / "runs" / "quickstart"
    assert [path.name for path in runs.iterdir()] == ["version_0"]
    events = [json.loads(line) for line in (runs / "version_0" / "events.jsonl").read_text("utf-8").splitlines()]
    assert {(event["action"], event["restored_step"]) for event in events} == {("rollback", 1)}
