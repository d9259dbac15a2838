"""Summary of evaluated episodes: intervals, repeated tasks, and broken episodes."""

import math
from pathlib import Path

import pytest

from hero_pl.datamodule import RolloutDataModule
from hero_pl.evaluation.summary import remarks, summarize
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.runs.intervals import wilson
from hero_pl.types import StopReason, Trajectory

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "taubench"


def episode(success, stop=StopReason.TERMINATED, task="t", **info):
    return Trajectory(task, "e", 0, 0, "", (), "", (), float(success), stop, info={"success": success, **info})


def test_the_wilson_interval_solves_its_equation():
    for wins, count in [(1, 10), (5, 10), (9, 10), (37, 250), (0, 4), (4, 4)]:
        for bound in wilson(wins, count):
            if 1e-9 < bound < 1.0 - 1e-9:  # |p - share| = z * sqrt(p (1 - p) / n)
                assert abs(bound - wins / count) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / count))


def test_the_wilson_interval_by_hand():
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_bug_781_more_trials_of_the_same_tasks_make_the_interval_no_narrower():
    once = [episode(i < 4, task=str(i)) for i in range(10)]
    assert summarize(once)["success_ci"] == list(wilson(4, 10))
    assert "tasks" not in summarize(once)
    result = summarize(once * 16)
    assert (result["success"], result["episodes"], result["tasks"]) == (0.4, 160, 10)
    assert result["success_ci"] == pytest.approx(wilson(4, 10))
    assert any("160 episodes are of 10 tasks" in line for line in remarks(result))
    # tasks a and b with 1 of 2 and 1 of 1: 2/3 of two units; the broken task c is none
    uneven = [episode(True, task="a"), episode(False, task="a"), episode(True, task="b")]
    result = summarize([*uneven, episode(False, StopReason.ENV_ERROR, task="c")])
    assert result["success_ci"] == pytest.approx(wilson(4 / 3, 2))
    assert result["tasks"] == 2


def test_broken_episodes_are_counted_apart():
    result = summarize([episode(True), episode(False), episode(False, StopReason.ENV_ERROR)])
    assert (result["success"], result["episodes"], result["non_evaluable"]) == (0.5, 2, 1)


def test_the_floor_and_the_kind_of_user_are_reported_with_the_score():
    played = [episode(i < 3, task=str(i), user="scripted-full", do_nothing_succeeds=i == 0) for i in range(4)]
    result = summarize(played)
    assert (result["success"], result["do_nothing_floor"], result["user"]) == (0.75, 0.25, "scripted-full")
    assert "Doing nothing would score 0.250 on the same episodes." in remarks(result)
    assert any(line.startswith("User: scripted-full.") for line in remarks(result))
    assert not {"do_nothing_floor", "user", "faithful_success"} & summarize([episode(True)]).keys()


@pytest.mark.skipif(not DATA.is_dir(), reason="the official data lies in shared/ beside the repository")
@pytest.mark.parametrize(("env", "right", "count"), [("TauBenchRetail", 7, 115), ("TauBenchAirline", 19, 50)])
def test_an_agent_that_hangs_up_at_once_scores_the_printed_floor(env, right, count):
    policy = ScriptedPolicy(['{"name": "transfer_to_human_agents", "arguments": {"summary": ""}}'])
    policy.load()
    data = RolloutDataModule(f"hero_pl/{env}-v0", {"data_dir": str(DATA)})
    result = summarize(data.evaluate(policy, "test", 0))
    assert (result["episodes"], result["non_evaluable"]) == (count, 0)
    assert result["success"] == result["do_nothing_floor"] == right / count


def test_tasks_that_a_scripted_user_cannot_play_are_reported_separately():
    played = [episode(i < 2, task=str(i), user_is_faithful=i > 0) for i in range(4)]
    result = summarize(played)
    assert (result["faithful_episodes"], result["faithful_success"]) == (3, 1 / 3)
    assert any("3 of 4 episodes faithfully; success there is 0.333" in line for line in remarks(result))


def test_repeated_tasks_give_pass_hat_k_and_pass_at_k_by_hand():
    # a: 2 of 3, b: 3 of 3. pass^1 = (2/3 + 1) / 2, pass^2 = (1/3 + 1) / 2, pass^3 = 1/2; pass@2 = 1.
    played = [episode(success, task="a") for success in (1, 0, 1)] + [episode(1, task="b")] * 3
    result = summarize(played)
    assert result["pass_hat"] == pytest.approx({"1": 5 / 6, "2": 2 / 3, "3": 1 / 2}, abs=1e-6)
    assert result["pass_at"]["2"] == 1.0
    assert "pass^k: k=1 0.833, k=2 0.667, k=3 0.500" in remarks(result)
    assert "pass_hat" not in summarize(played[:4])  # b was played once


def test_a_task_that_lost_a_trial_bounds_k_instead_of_leaving_the_mean():
    # a: 2 of 2, b: 0 of 1 and one trial broken. pass^1 = (1 + 0) / 2; over a alone pass^2 would be 1.
    played = [episode(1, task="a"), episode(1, task="a"), episode(0, task="b")]
    result = summarize([*played, episode(0, StopReason.ENV_ERROR, task="b")])
    assert result["pass_hat"] == result["pass_at"] == {"1": 0.5}
    assert (result["planned_trials"], result["evaluable_trials"]) == (2, 1)
    notes = remarks(result)
    assert "After such errors a task has 1 of its 2 trials left: pass^k and pass@k are computed up to k=1." in notes
    assert "pass^k: k=1 0.500" in notes
    whole = summarize([*played, episode(0, task="b")])
    assert whole["pass_hat"] == {"1": 0.5, "2": 0.5}
    assert not any("trials" in line for line in remarks(whole))


def test_a_task_without_any_trial_left_allows_no_k():
    broken = [episode(0, StopReason.ENV_ERROR, task="b")] * 2
    result = summarize([episode(1, task="a"), episode(1, task="a"), *broken])
    assert not {"pass_hat", "pass_at"} & result.keys()
    assert "After such errors a task has 0 of its 2 trials left: pass^k and pass@k cannot be computed." in remarks(
        result
    )


def test_a_trial_more_than_planned_may_break():
    played = [episode(1, task="a")] * 2 + [episode(1, StopReason.ENV_ERROR, task="a")] + [episode(0, task="b")] * 2
    result = summarize(played)
    assert result["pass_hat"] == {"1": 0.5, "2": 0.5}
    assert "planned_trials" not in result
