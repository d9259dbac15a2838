"""The recordings of the original engine, replayed."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "conformance" / "webshop_traces.py"


@pytest.fixture(scope="module")
def traces():
    spec = importlib.util.spec_from_file_location("webshop_traces", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("search", "checks"), [("native", 37_000), ("recorded", 32_000)])
def test_every_recorded_step_goal_price_reward_and_ranking_is_reproduced(traces, shared_data, capsys, search, checks):
    assert traces.run(shared_data, search) == 0
    passed, word, failures = capsys.readouterr().out.splitlines()[-1].split(maxsplit=2)
    assert (word, failures) == ("passed,", "0 failed")
    assert int(passed) > checks


def test_a_wrong_answer_is_counted_and_shown(traces, capsys):
    report = traces.Report(max_failures=1)
    report.check("kind", "here", 1, 1)
    report.check("kind", "there", 1, 2)
    assert report.finish() == 1
    out = capsys.readouterr().out
    assert "FAILED kind at there" in out
    assert out.splitlines()[-1] == "1 passed, 1 failed"
