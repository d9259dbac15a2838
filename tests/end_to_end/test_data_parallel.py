"""Two processes with gloo on the CPU learn exactly what one process learns from the same episodes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
from two_processes import ROOT, environment, fit, free_port
from two_ranks import SCENARIOS, run


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Results of both ranks in every scenario."""
    out = tmp_path_factory.mktemp("ranks") / "found"
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    started = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("two_ranks.py")), str(out)],
            env=environment(**shared, LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(outputs)
    return [torch.load(f"{out}.{rank}") for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    """Results of one process with all episodes, computed on demand."""
    known = {}

    def of(name):
        if name not in known:
            known[name] = run(SCENARIOS[name], world=1)
        return known[name]

    return of


def assert_close(actual, expected, what):
    assert actual.keys() == expected.keys()
    scale = max(float(value.abs().max()) for value in expected.values())
    for name in expected:
        assert float((actual[name] - expected[name]).abs().max()) <= 1e-5 * scale, (what, name)


@pytest.mark.parametrize("name", ["all hinted", "unequal", "unequal, per trajectory", "grpo"])
def test_bug_17_two_processes_give_the_gradient_of_one(name, ranks, alone):
    for rank in ranks:
        assert_close(rank[name]["gradient"], alone(name)["gradient"], name)
        assert rank[name]["turns"] == alone(name)["turns"]
    assert any(float(gradient.abs().max()) > 0.0 for gradient in alone(name)["gradient"].values())


def test_bug_18_a_process_without_any_hinted_turn_takes_part_with_gradient_zero(ranks, alone):
    for rank in ranks:
        assert_close(rank["one rank empty"]["gradient"], alone("one rank empty")["gradient"], "one rank empty")
    assert [rank["one rank empty"]["micro_batches"] for rank in ranks] == [2, 0]


def test_bug_18_a_step_without_hinted_turns_anywhere_is_skipped_by_both_processes(ranks, alone):
    for rank in ranks:
        result = rank["all ranks empty"]
        assert (result["gradient"], result["version"]) == ({}, 0)
        assert result["turns"] >= 15
        assert_close(result["weights"], alone("all ranks empty")["weights"], "all ranks empty")


def test_processes_may_have_different_numbers_of_micro_batches(ranks, alone):
    name = "two micro-batches and one"
    assert [rank[name]["micro_batches"] for rank in ranks] == [2, 1]
    for rank in ranks:
        assert_close(rank[name]["gradient"], alone(name)["gradient"], name)


def test_the_turn_budget_counts_the_turns_of_both_processes_and_stops_them_together(ranks, alone):
    counted = [(rank["budget"]["turns"], rank["budget"]["batches"]) for rank in ranks]
    assert counted[0] == counted[1]
    assert counted[0][0] >= 25
    assert counted[0][1] == alone("budget")["batches"] > 1
    first, second = (rank["budget"]["weights"] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_error_of_one_process_ends_both_with_its_reason(ranks):
    found = [rank["one rank broken"]["error"] for rank in ranks]
    assert found == ["Process 1: the shop has closed", "the shop has closed"]


def test_held_out_episodes_are_shared_and_every_process_has_the_results_of_all(ranks, alone):
    expected = alone("held out")
    assert expected["evaluated"] == 14  # before and after
    assert [rank["held out"]["evaluated"] for rank in ranks] == [8, 6]
    for rank in ranks:
        assert rank["held out"]["held_out"].keys() == expected["held_out"].keys() == {"0", str(expected["turns"])}
        for mark, found in rank["held out"]["held_out"].items():
            assert found == expected["held_out"][mark], mark


@pytest.mark.parametrize("name", ["all hinted", "unequal", "one rank empty", "grpo"])
def test_what_is_logged_speaks_for_both_processes(name, ranks, alone):
    first, second = (rank[name]["metrics"] for rank in ranks)
    assert first == pytest.approx(second, nan_ok=True)
    expected = alone(name)["metrics"]
    assert set(first) == set(expected)
    # of a single process: all of the batch at once, where two know their own percentiles and probes
    inexact = {"rollout/action_tokens_p50", "rollout/action_tokens_p95", "hero/empty_batches"}
    for metric in first.keys() - inexact:
        if not metric.startswith(("teacher/probe", "teacher/hint_sensitivity")):
            assert first[metric] == pytest.approx(expected[metric], rel=1e-4, abs=1e-6), metric


def test_bug_56_and_58_a_users_counter_mean_and_maximum_come_out_right_over_both_processes(ranks, alone):
    expected = {"mine/count": 8.0, "mine/mean": (2 * 0.5 + 6 * 1.0) / 8, "mine/largest": 3.0, "mine/rare": 7.0}
    for result in (*(rank["own metrics"]["metrics"] for rank in ranks), alone("own metrics")["metrics"]):
        mine = {name: value for name, value in result.items() if name.startswith("mine/")}
        assert mine == {**expected, "mine/micro_batches": 4.0, "mine/tokens": result["train/tokens"]}


def test_the_command_trains_on_two_processes_with_the_shipped_overlay(tmp_path):
    done = subprocess.run(
        fit(tmp_path, {"turn_budget": {"max_turns": 16}, "held_out": {"episodes": 3, "at_turns": []}}),
        cwd=ROOT,
        env=environment(MASTER_PORT=str(free_port())),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "quickstart" / "version_0"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["training_turns"] >= 16
    assert summary["before"]["episodes"] == summary["after"]["episodes"] == 3
    assert not (tmp_path / "runs" / "quickstart" / "version_1").exists()
