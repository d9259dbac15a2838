"""A run prints its folder when it ends."""

import csv
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from hero_pl.callbacks.held_out import HeldOut
from hero_pl.callbacks.run_checkpoint import RunCheckpoint
from hero_pl.callbacks.run_logger import RunLogger
from hero_pl.callbacks.trajectories import TrajectoryLog
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.runs.records import read_records


@pytest.mark.parametrize(
    ("every_n_steps", "episodes", "message"),
    [(1, 0, "The run is in {folder}; view it with: hero_pl view {folder}\n"), (0, 0, "The run is in {folder}\n")],
)
def test_bug_883_a_run_without_evaluations_names_its_folder_and_a_prediction_what_it_wrote(
    every_n_steps, episodes, message, tiny_module, tiny_data, fit, tmp_path, capsys
):
    callbacks = [HeldOut(episodes), log := TrajectoryLog(every_n_steps)]
    trainer = fit(tiny_module(), tiny_data(), 1, callbacks=callbacks, logger=CSVLogger(tmp_path, "tiny"))
    assert message.format(folder=tmp_path / "tiny" / "version_0") in capsys.readouterr().out
    log.on_predict_batch_end(trainer, None, None, [])
    where = "written to /" if every_n_steps else "not written: trajectories.every_n_steps is 0"
    assert f"0 episodes {where}" in capsys.readouterr().out


def test_a_run_whose_evaluation_names_the_folder_does_not_name_it_again(tiny_module, tiny_data, fit, tmp_path, capsys):
    callbacks = [HeldOut(2), TrajectoryLog()]
    fit(tiny_module(), tiny_data(), 1, callbacks=callbacks, logger=CSVLogger(tmp_path, "tiny"))
    shown = capsys.readouterr().out
    assert "The run is in" not in shown
    assert shown.replace("\n", "").count(str(tmp_path / "tiny" / "version_0")) == 1


def test_a_run_without_a_logger_has_no_folder_to_name(tiny_module, tiny_data, fit, capsys):
    fit(tiny_module(), tiny_data(), 1, callbacks=[TrajectoryLog()])
    assert "The run is in" not in capsys.readouterr().out


class Uneven(SelfDistillation):
    """Of the second batch, one update less is made; the third one makes none."""

    batches = 0

    def prepare(self, *args):
        self.batches, self.updates = self.batches + 1, 0
        return super().prepare(*args)

    def loss(self, policy, micro):
        out = super().loss(policy, micro)
        self.updates += 1
        broken = self.updates > {2: 2, 3: 0}.get(self.batches, 3)
        return replace(out, loss=out.loss * torch.nan) if broken else out


@pytest.mark.filterwarnings("ignore:Nothing was learned from the batch")
@pytest.mark.parametrize(("every", "logged"), [(1, [3, 5, 5, 8, 11]), (3, [3, 5, 8, 11]), (4, [5, 8, 11]), (0, [])])
def test_bug_804_a_batch_is_logged_if_one_of_its_steps_is_due(every, logged, tiny_module, tiny_data, fit, tmp_path):
    # optimizer steps 3, 5, 5, 8, 11: counted with the batch without a step 3, 5, 6, 9, 12
    def run(steps, ckpt_path=None):
        objective = Uneven(reflector=ShopRules())
        objective.batches = 0 if ckpt_path is None else 3
        module = tiny_module(objective, updates_per_batch=3, max_staleness=2, tokens_per_micro_batch=10**6)
        logger = RunLogger(str(tmp_path), "", "run")
        logger.resumed = ckpt_path is not None
        callbacks = [TrajectoryLog(every), RunCheckpoint(1, keep=9)]
        fit(module, tiny_data(), steps, ckpt_path, callbacks=callbacks, logger=logger)
        path = tmp_path / "run" / "trajectories.jsonl"
        return [record.step for record in read_records(path)][::2] if path.exists() else []  # of two episodes

    assert run(11) == logged
    assert run(11, tmp_path / "run" / "checkpoints" / "step=5.ckpt") == logged  # of the batch without a step


@pytest.mark.parametrize("updates", [1, 2])
def test_bug_747_rows_evaluations_and_episodes_name_the_same_steps(updates, tiny_module, tiny_data, fit, tmp_path):
    def run(steps, ckpt_path=None):
        module = tiny_module(updates_per_batch=updates, max_staleness=updates - 1)
        callbacks = [TrajectoryLog(), RunCheckpoint(1, keep=9), HeldOut(2, at_turns=[12])]
        logger = RunLogger(str(tmp_path), "run", "v")
        logger.resumed = ckpt_path is not None
        more = {"limit_train_batches": 2, "limit_val_batches": 1, "num_sanity_val_steps": 0}
        fit(module, tiny_data(eval_episodes=2), steps * updates, ckpt_path, callbacks=callbacks, logger=logger, **more)

    run(3)
    run(4, tmp_path / "run" / "v" / "checkpoints" / f"step={3 * updates}.ckpt")
    with (tmp_path / "run" / "v" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps = {
        name: [int(row["step"]) / updates for row in rows if row.get(name)]
        for name in ("train/loss", "test/success", "val/success")
    }
    assert steps == {"train/loss": [1, 2, 3, 4], "test/success": [0, 2, 4], "val/success": [2, 4]}
    assert [float(row["train/turns"]) for row in rows] == [6.0 * int(row["step"]) / updates for row in rows]
    assert [int(float(row["epoch"])) for row in rows if row["train/loss"]] == [0, 0, 1, 1]
    records = read_records(tmp_path / "run" / "v" / "trajectories.jsonl")
    played = [(record.stage, record.step / updates) for record in records]
    expected = [("test", 0), ("train", 1), ("train", 2), ("test", 2), ("train", 3), ("train", 4), ("test", 4)]
    assert list(dict.fromkeys(one for one in played if one[0] != "validate")) == expected
