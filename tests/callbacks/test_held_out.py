"""Held-out evaluation: what is written, when, and the interval around a share."""

import json
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from hero_pl.callbacks.export import Export
from hero_pl.callbacks.held_out import HeldOut, remarks, summarise, wilson
from hero_pl.callbacks.trajectories import TrajectoryLog
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.datamodule import RolloutDataModule
from hero_pl.errors import ConfigError
from hero_pl.policy.scripted import ScriptedPolicy
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


def test_broken_episodes_are_counted_apart():
    result = summarise([episode(True), episode(False), episode(False, StopReason.ENV_ERROR)])
    assert (result["success"], result["episodes"], result["non_evaluable"]) == (0.5, 2, 1)


def test_the_floor_and_the_kind_of_user_stand_beside_the_score():
    played = [episode(i < 3, task=str(i), user="scripted-full", do_nothing_succeeds=i == 0) for i in range(4)]
    result = summarise(played)
    assert (result["success"], result["do_nothing_floor"], result["user"]) == (0.75, 0.25, "scripted-full")
    assert "Doing nothing would score 0.250 on the same episodes." in remarks(result)
    assert any(line.startswith("User: scripted-full.") for line in remarks(result))
    assert not {"do_nothing_floor", "user", "faithful_success"} & summarise([episode(True)]).keys()


@pytest.mark.skipif(not DATA.is_dir(), reason="the official data lies in shared/ beside the repository")
@pytest.mark.parametrize(("env", "right", "count"), [("TauBenchRetail", 7, 115), ("TauBenchAirline", 19, 50)])
def test_an_agent_that_hangs_up_at_once_scores_the_printed_floor(env, right, count):
    policy = ScriptedPolicy(['{"name": "transfer_to_human_agents", "arguments": {"summary": ""}}'])
    policy.load()
    data = RolloutDataModule(f"hero_pl/{env}-v0", {"data_dir": str(DATA)})
    result = summarise(data.evaluate(policy, "test", 0))
    assert (result["episodes"], result["non_evaluable"]) == (count, 0)
    assert result["success"] == result["do_nothing_floor"] == right / count


def test_tasks_that_a_scripted_user_cannot_play_are_told_apart():
    played = [episode(i < 2, task=str(i), user_is_faithful=i > 0) for i in range(4)]
    result = summarise(played)
    assert (result["faithful_episodes"], result["faithful_success"]) == (3, 1 / 3)
    assert any("3 of 4 episodes faithfully; success there is 0.333" in line for line in remarks(result))


def test_repeated_tasks_give_pass_hat_k_and_pass_at_k_by_hand():
    # a: 2 of 3, b: 3 of 3. pass^1 = (2/3 + 1) / 2, pass^2 = (1/3 + 1) / 2, pass^3 = 1/2; pass@2 = 1.
    played = [episode(success, task="a") for success in (1, 0, 1)] + [episode(1, task="b")] * 3
    result = summarise(played)
    assert result["pass_hat"] == pytest.approx({"1": 5 / 6, "2": 2 / 3, "3": 1 / 2}, abs=1e-6)
    assert result["pass_at"]["2"] == 1.0
    assert "pass^k: k=1 0.833, k=2 0.667, k=3 0.500" in remarks(result)
    assert "pass_hat" not in summarise(played[:4])  # b was played once


def test_the_files_of_a_run_tell_floor_user_and_broken_episodes(tiny_module, tiny_data, fit, tmp_path, capsys):
    shop = {"size": 30, "tasks": 60, "compact": True}
    data = tiny_data(env="hero_pl/PocketRetail-v0", env_args=shop)
    fit(tiny_module(), data, callbacks=[HeldOut(2), TurnBudget(1)], logger=CSVLogger(tmp_path))
    folder = tmp_path / "lightning_logs" / "version_0"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for when in ("before", "after"):
        assert (summary[when]["do_nothing_floor"], summary[when]["user"]) == (0.0, "scripted-full")
        assert summary[when]["non_evaluable"] == 0
    assert summary["curve"]["0"]["tokens"]["system_tokens"] > 0
    rows = [json.loads(line) for line in (folder / "eval.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {(row["user"], row["do_nothing_succeeds"], row["evaluable"]) for row in rows} == {
        ("scripted-full", False, True)
    }
    header = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {"test/do_nothing_floor", "test/non_evaluable", "test/system_tokens", "test/observation_tokens"} <= {*header}
    assert {"rollout/do_nothing_floor", "rollout/system_tokens", "rollout/tool_errors"} <= {*header}
    shown = capsys.readouterr().out
    assert "floor" in shown
    assert "Doing nothing would score 0.000" in shown
    assert "User: scripted-full" in shown


def test_the_summary_has_before_and_after_and_the_files_are_written(tiny_module, tiny_data, fit, tmp_path):
    module, data = tiny_module(), tiny_data(seed=3)
    callbacks = [HeldOut(4, at_turns=[5]), TurnBudget(12), TrajectoryLog(2), Export(enabled=True)]
    trainer = fit(module, data, 50, callbacks=callbacks, logger=CSVLogger(tmp_path))
    folder = tmp_path / "lightning_logs" / "version_0"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for when in ("before", "after"):
        assert {"success", "success_ci", "turns", "episodes"} <= summary[when].keys()
        assert summary[when]["success_ci"] == list(wilson(0, 4))
        assert summary[when]["episodes"] == 4
    assert summary["training_turns"] == module.turns >= 12
    assert summary["seed"] == 3
    assert summary["wall_time_s"] > 0
    assert list(summary["curve"])[:2] == ["0", "5"]
    assert summary["curve"]["0"]["turns_used"] == 0
    rows = [json.loads(line) for line in (folder / "eval.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 4 * len(summary["curve"])
    assert {row["stage"] for row in rows} == {"test"}
    lines = (folder / "trajectories.jsonl").read_text(encoding="utf-8").splitlines()
    training = [row["step"] for row in map(json.loads, lines) if row.get("stage") == "train"]
    assert training
    assert len(training) == 2 * (trainer.global_step // 2)
    assert (folder / "huggingface" / "model.safetensors").exists()


def test_evaluation_does_not_touch_training(tiny_module, tiny_data, fit):
    results = []
    for callbacks in ([], [HeldOut(3, at_turns=[1, 4], greedy=True)]):
        module = tiny_module()
        fit(module, tiny_data(), 2, callbacks=callbacks)
        results.append([record.trajectory for record in module.last_records])
    assert results[0] == results[1]


def test_every_evaluation_plays_the_same_held_out_tasks(tiny_module, tiny_data, fit):
    module, data = tiny_module(), tiny_data()
    module.policy.load()
    first, second = data.evaluate(module.policy, "test", 5), data.evaluate(module.policy, "test", 5)
    assert first == second
    assert not {t.task_id for t in first} & set(data.collector("train").task_ids)


def test_a_run_resumed_between_two_marks_gives_the_summary_of_the_whole_run(tiny_module, tiny_data, fit, tmp_path):
    def run(name, ckpt_path=None, callbacks=()):
        held_out = HeldOut(3, at_turns=[1, 9, 14])
        more = {"logger": CSVLogger(tmp_path, name), "enable_checkpointing": bool(callbacks)}
        fit(tiny_module(), tiny_data(), 50, ckpt_path, callbacks=[held_out, TurnBudget(20), *callbacks], **more)
        summary = json.loads((tmp_path / name / "version_0" / "summary.json").read_text(encoding="utf-8"))
        for result in summary["curve"].values():
            del result["train_cpu_s"]
        return {key: value for key, value in summary.items() if key not in ("wall_time_s", "method")}

    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = run("whole", callbacks=[keep])
    at = tmp_path / "step=2.ckpt"
    marks = torch.load(at, weights_only=False)["callbacks"]["HeldOut"]["results"]
    assert {"0", "1"} <= marks.keys() < whole["curve"].keys()
    assert run("resumed", at) == whole


@pytest.mark.parametrize("make", [lambda: HeldOut(-1), lambda: TurnBudget(-1), lambda: TrajectoryLog(-1)])
def test_negative_numbers_are_refused_with_the_meaning_of_zero(make):
    with pytest.raises(ConfigError, match="or 0 for no"):
        make()
