"""Held-out evaluation: what is written, when, and the interval around a share."""

import itertools
import json
import time
import warnings
from dataclasses import replace
from types import SimpleNamespace

import gymnasium
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from hero_envs.webshop.env import WebShopEnv
from hero_pl.callbacks.export import Export
from hero_pl.callbacks.held_out import HeldOut
from hero_pl.callbacks.trajectories import TrajectoryLog
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.errors import ConfigError
from hero_pl.evaluation.metrics import PassHatK
from hero_pl.evaluation.summary import summarize
from hero_pl.export.results import evaluations
from hero_pl.runs.intervals import wilson
from hero_pl.types import StopReason, Trajectory


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


def test_bug_51_the_summary_has_before_and_after_and_the_files_are_written(tiny_module, tiny_data, fit, tmp_path):
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
    assert [row["turns_budget"] for row in rows[::4]] == [0, 5, 12]
    assert {row["stage"] for row in rows} == {"test"}
    lines = (folder / "trajectories.jsonl").read_text(encoding="utf-8").splitlines()
    training = [row["step"] for row in map(json.loads, lines) if row.get("stage") == "train"]
    assert training
    assert len(training) == 2 * (trainer.global_step // 2)
    assert (folder / "huggingface" / "model.safetensors").exists()


def test_bug_52_a_mark_that_a_batch_reaches_exactly_is_evaluated_right_after_it(tiny_module, tiny_data, fit):
    module, held_out = tiny_module(), HeldOut(2, at_turns=[6])
    fit(module, tiny_data(), 2, callbacks=[held_out])  # no episode is won, so a batch has two times three turns
    assert [(mark, result["turns_used"]) for mark, result in held_out.results.items()] == [
        ("0", 0),
        ("6", 6),
        ("12", 12),
    ]


def test_bug_849_the_last_batch_reaches_the_budget_and_another_mark(tiny_module, tiny_data, fit, tmp_path):
    held_out = HeldOut(2, at_turns=[9])
    fit(tiny_module(), tiny_data(), 50, callbacks=[held_out, TurnBudget(10)], logger=CSVLogger(tmp_path, version=0))
    assert {mark: result["turns_used"] for mark, result in held_out.results.items()} == {"0": 0, "9": 12, "10": 12}
    folder = tmp_path / "lightning_logs" / "version_0"
    rows = [json.loads(line) for line in (folder / "eval.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row.pop("turns_budget") for row in rows] == [0, 0, 9, 9, 10, 10]
    assert rows[2:4] == rows[4:]  # played once
    kept = (folder / "trajectories.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in kept] == [0, 0, 2, 2]


def test_bug_851_the_summary_is_json_where_no_episode_can_be_evaluated(tiny_module, tiny_data, fit, tmp_path):
    data = tiny_data()
    play = data.evaluate
    data.evaluate = lambda *args, **kwargs: [
        replace(one, stop_reason=StopReason.ENDPOINT_ERROR) for one in play(*args, **kwargs)
    ]
    fit(tiny_module(), data, 1, callbacks=[HeldOut(2)], logger=CSVLogger(tmp_path, version=0))

    def refuse(word):
        pytest.fail(f"{word} is not JSON")

    text = (tmp_path / "lightning_logs" / "version_0" / "summary.json").read_text(encoding="utf-8")
    summary = json.loads(text, parse_constant=refuse)
    assert (summary["after"]["success"], summary["after"]["non_evaluable"]) == (None, 2)


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


@pytest.mark.parametrize("before", [[HeldOut(0)], []], ids=["off before", "not there before"])
def test_bug_812_marks_that_were_passed_before_they_were_set_are_not_measured_with_later_weights(
    before, tiny_module, tiny_data, fit, tmp_path
):
    fit(tiny_module(), tiny_data(), 2, callbacks=before).save_checkpoint(tmp_path / "half.ckpt")  # 12 turns
    held_out, logger = HeldOut(2, at_turns=[4, 12, 15]), CSVLogger(tmp_path)
    with pytest.warns(UserWarning, match=r"had made 12 turns when the evaluations at \[0, 4\] turns were set"):
        fit(tiny_module(), tiny_data(), 4, tmp_path / "half.ckpt", callbacks=[held_out], logger=logger)
    used = {mark: result["turns_used"] for mark, result in held_out.results.items()}
    assert used == {"12": 12, "15": 18, "24": 24}
    summary = json.loads((tmp_path / "lightning_logs" / "version_0" / "summary.json").read_text(encoding="utf-8"))
    assert "before" not in summary
    assert summary["after"]["episodes"] == 2


def test_bug_812_an_evaluation_that_was_interrupted_is_caught_up(tiny_module, tiny_data, fit, tmp_path):
    first = HeldOut(2, at_turns=[9])
    measure = first.measure

    def interrupted(data, policy):
        if first.results:
            raise KeyboardInterrupt
        return measure(data, policy)

    class Save(Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.save_checkpoint(tmp_path / "newest.ckpt")  # before the evaluation at the end of the batch

    first.measure = interrupted
    with pytest.raises(SystemExit):
        fit(tiny_module(), tiny_data(), 4, callbacks=[Save(), first])
    held_out = HeldOut(2, at_turns=[9])
    fit(tiny_module(), tiny_data(), 4, tmp_path / "newest.ckpt", callbacks=[held_out])
    assert {mark: result["turns_used"] for mark, result in held_out.results.items()} == {"0": 0, "9": 12, "24": 24}


def test_bug_780_metrics_rows_and_records_agree_on_what_the_environment_reports(tmp_path):
    def played(number, reward, **info):
        stop = StopReason.TERMINATED if info else StopReason.MAX_TURNS
        return Trajectory(f"test-{number}", "e", 0, number, "", (), "", (), reward, stop, info=info)

    # passed from 0.8 on; shaped steps that sum to 1 without a pass; cut by limits.max_turns, so without a report
    episodes = [played(0, 0.9, success=True), played(1, 1.0, success=False), played(2, 1.0), played(3, 0.4)]
    HeldOut(method="a").write(tmp_path, 0, 0, episodes)
    rows = [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()]
    assert [row["success"] for row in rows] == [True, False, True, False]
    assert summarize(episodes)["success"] == evaluations(tmp_path)[0].success == 0.5
    metric = PassHatK([one.task_id for one in episodes])
    metric.update(episodes)
    assert float(metric.compute()) == 0.5


@pytest.mark.parametrize("make", [lambda: HeldOut(-1), lambda: TurnBudget(-1), lambda: TrajectoryLog(-1)])
def test_negative_numbers_are_refused_with_the_meaning_of_zero(make):
    with pytest.raises(ConfigError, match="or 0 for no"):
        make()


class Alike(WebShopEnv):
    """The pocket shop; it tells that only ``kinds`` of its tasks are different."""

    def __init__(self, split="train", kinds=0, broken=False):
        super().__init__("pocket", split=split)
        self.kinds, self.broken = kinds, broken

    def content(self, task):
        if self.broken:
            raise RuntimeError("no content")
        return str(self.task_ids.index(task) % self.kinds) if self.kinds else task


gymnasium.register("AlikeTest-v0", entry_point=Alike, order_enforce=False, disable_env_checker=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kinds": 2}, "4 of 4 test tasks of AlikeTest-v0 are training tasks with other seeds"),
        ({"broken": True}, "were not compared with the training tasks: content() raised RuntimeError"),
        ({}, None),
    ],
)
def test_bug_786_and_854_held_out_tasks_with_other_seeds_that_are_training_tasks_cause_a_warning(
    arguments, words, tiny_module, tiny_data, fit, monkeypatch
):
    slow = SimpleNamespace(monotonic=itertools.count(0.0, 100.0).__next__, process_time=time.process_time)
    monkeypatch.setattr("hero_pl.callbacks.held_out.time", slow)  # what is found depends on no clock
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tiny_module(), tiny_data(env="AlikeTest-v0", env_args=arguments), 1, callbacks=[HeldOut(episodes=4)])
    told = [str(one.message) for one in caught if "training tasks" in str(one.message)]
    assert [words in text for text in told] == [True] if words else told == []


def test_held_out_tasks_that_are_trained_on_cause_a_warning(tiny_module, tiny_data, fit):
    data = tiny_data(splits={"test": "train"})
    with pytest.warns(UserWarning, match="of the test tasks of hero_pl/WebShopPocket-v0 are also training tasks"):
        fit(tiny_module(), data, 1, callbacks=[HeldOut(episodes=2)])
