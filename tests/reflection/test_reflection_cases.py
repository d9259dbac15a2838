"""The file of cases for other implementations, run with its own command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tests" / "conformance" / "reflection_cases.py"
CASES = ROOT / ".." / "shared" / "data" / "reflection_cases.json"


def run(*files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *files], capture_output=True, text=True, check=False)


def test_every_shared_case_passes() -> None:
    if not CASES.is_file():
        pytest.skip("shared/data/reflection_cases.json is not beside the repository")
    count = len(json.loads(CASES.read_text(encoding="utf-8"))["cases"])
    result = run(CASES)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, f"{count} passed, 0 failed"), result.stdout


def test_a_failing_case_is_named_with_its_difference(tmp_path: Path) -> None:
    trajectory = {"context": "t", "actions": ["a"], "observations": ["b"], "tools": [], "final_reward": 1.0}
    turn = {"diagnosis": "Right.", "confidence": "high", "next_action_target": None}
    good = {"status": "ok", "strict": True, "turns": [turn], "issues": []}
    cases = [
        {"id": "good", "raw": json.dumps({"turn1": turn}), "expected": good},
        {"id": "bad", "raw": "", "expected": good},
        {"id": "own setting", "raw": json.dumps({"turn1": turn}), "max_diagnosis_chars": 3, "expected": good},
    ]
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"trajectory": trajectory, "cases": cases}), encoding="utf-8")
    result = run(path)
    assert result.returncode == 1
    assert "FAILED cases.json::bad\n  status: expected 'ok', got 'rejected'" in result.stdout
    assert "FAILED cases.json::own setting" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 passed, 2 failed"


def test_no_file_and_an_empty_file_are_no_success(tmp_path: Path) -> None:
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"cases": []}), encoding="utf-8")
    assert run().returncode == 2
    assert run(path).returncode == 1
    assert run(path).stdout.splitlines()[-1] == "0 passed, 1 failed"


def test_an_unreadable_file_and_a_case_without_its_parts_are_failures(tmp_path: Path) -> None:
    broken, partial = tmp_path / "broken.json", tmp_path / "partial.json"
    broken.write_text("{", encoding="utf-8")
    partial.write_text(json.dumps({"cases": [{"id": "alone", "raw": ""}]}), encoding="utf-8")
    result = run(broken, tmp_path / "absent.json", partial)
    assert result.returncode == 1
    assert result.stdout.count("not a case file") == 2
    assert "FAILED partial.json::alone\n  KeyError" in result.stdout
    assert result.stdout.splitlines()[-1] == "0 passed, 3 failed"
