"""A run of fit is resumed in its own folder, or refused with advice; it never starts from scratch by mistake."""

import csv
import json

import pytest
import torch
import yaml

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.callbacks.run_folder import locked
from hero_pl.cli.export import checkpoint_of
from hero_pl.cli.main import main
from hero_pl.runs.records import read_records


def message(capsys, args):
    """Error message of a refused command."""
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code == 1
    return capsys.readouterr().err


def weights(run):
    return AtomicCheckpointIO().load_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]


def contents(run):
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        steps = [row["step"] for row in csv.DictReader(file) if row["train/loss"]]
    evaluations = [json.loads(line) for line in (run / "eval.jsonl").read_text(encoding="utf-8").splitlines()]
    return (
        steps,
        evaluations,
        [(r.step, r.stage, r.trajectory.task_id) for r in read_records(run / "trajectories.jsonl")],
    )


def test_auto_starts_a_run_and_then_continues_it_in_its_folder(config, tmp_path):
    settings = {"held_out__episodes": 1, "held_out__method": "tiny"}
    long, short = config("long.yaml", **settings, trainer__max_steps=4), config(**settings, trainer__max_steps=2)
    main(["fit", "--config", long, "--trainer.logger.init_args.name", "whole"])
    main(["fit", "--config", short, "--resume", "auto"])
    main(["fit", "--config", long, "--resume", "auto"])
    whole, run = tmp_path / "runs" / "whole" / "version_0", tmp_path / "runs" / "tiny" / "version_0"
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(whole).items())
    steps, evaluations, records = contents(whole)
    again = contents(run)
    assert again[0] == steps
    at_two = [row for row in again[1] if row not in evaluations]  # bug 801: the end of the short run stays on record
    assert len(at_two) == 1
    assert [row for row in again[1] if row not in at_two] == evaluations
    assert [record for record in again[2] if record[:2] != (2, "test")] == records
    assert len(again[2]) == len(records) + 1
    curve = json.loads((run / "summary.json").read_text(encoding="utf-8"))["curve"]
    assert set(curve) == {str(row["turns_budget"]) for row in again[1]}
    assert yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["trainer"]["max_steps"] == 4


def test_changed_settings_are_applied_or_refused_with_a_message(config, capsys, tmp_path, caplog):
    main(["fit", "--config", config(trainer__max_steps=1, model__lr=1e-3)])
    run = tmp_path / "runs" / "tiny" / "version_0"
    text = message(capsys, ["fit", "--config", config(data__tasks_per_step=2), "--resume", str(run)])
    assert "data.tasks_per_step: 1 -> 2" in text
    with caplog.at_level("INFO"):
        main(["fit", "--config", config(model__lr=1e-6), "--resume", str(run / "checkpoints" / "last.ckpt")])
    assert "Changed since the checkpoint: model.lr: 0.001 -> 1e-06" in caplog.text
    state = AtomicCheckpointIO().load_checkpoint(run / "checkpoints" / "last.ckpt")
    assert state["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-6


REFUSED = {
    "a version that holds a run": (["--trainer.logger.init_args.version", "0"], "already contains a run"),
    "two ways at once": (["--ckpt_path", "last", "--resume", "auto"], "Give one of them"),
    "a path that is none": (["--resume", "nowhere"], "no such checkpoint or run"),
    "last of no run": (
        ["--ckpt_path", "last", "--trainer.logger.init_args.name", "new"],
        "has a checkpoint",
    ),
    "a name that leads out": (["--trainer.logger.init_args.name", "../../x"], "none of them '.' or '..'"),
    "best": (["--ckpt_path", "best"], "There is no checkpoint best"),
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_cannot_be_continued_is_refused_before_a_model_is_read(given, config, capsys, tmp_path, loads_no_model):
    folder = tmp_path / "runs" / "tiny" / "version_0"
    folder.mkdir(parents=True)
    (folder / "eval.jsonl").write_text("{}\n", encoding="utf-8")
    words, why = REFUSED[given]
    assert why in message(capsys, ["fit", "--config", config(), *words])
    assert not (tmp_path / "x").exists()
    assert (folder / "eval.jsonl").read_text(encoding="utf-8") == "{}\n"


def test_bug_800_a_second_start_changes_nothing_in_the_folder_of_a_live_run(config, capsys, tmp_path, loads_no_model):
    folder = tmp_path / "runs" / "tiny" / "version_0"
    folder.mkdir(parents=True)
    files = {name: folder / name for name in ("eval.jsonl", "trajectories.jsonl", "metrics.csv")}
    for path in files.values():
        path.write_text("a\nb\n", encoding="utf-8")
    with locked(folder):  # by the run, which has no checkpoint yet
        text = message(capsys, ["fit", "--config", config(), "--resume", "auto"])
    assert "Another process is writing to the run" in text
    assert {name: path.read_text(encoding="utf-8") for name, path in files.items()} == dict.fromkeys(files, "a\nb\n")


def test_bug_802_a_run_that_went_back_goes_on_from_there(config, capsys, tmp_path, caplog):
    def fit(steps, *words):
        changed = config(trainer__max_steps=steps, checkpoint__every_n_steps=1, checkpoint__keep=9)
        main(["fit", "--config", changed, *words])

    fit(4)
    kept = tmp_path / "runs" / "tiny" / "version_0" / "checkpoints"
    with caplog.at_level("INFO"):
        fit(2, "--resume", str(kept / "step=1.ckpt"))
    assert f"{kept / 'step=3.ckpt'} is later than the checkpoint that the run goes back to" in caplog.text
    aside = {f"{name}.ckpt.discarded" for name in ("step=2", "step=3", "step=4", "last")}
    assert {path.name for path in kept.iterdir()} == aside | {"step=1.ckpt", "step=2.ckpt", "last.ckpt"}
    assert checkpoint_of(kept.parent) == kept / "last.ckpt"
    with caplog.at_level("INFO"):
        fit(3, "--resume", "auto")
    assert f"from {kept / 'last.ckpt'}" in caplog.text
    assert "shorter than at the checkpoint" not in caplog.text
    assert [r.step for r in read_records(kept.parent / "trajectories.jsonl")] == [1, 2, 3]
    text = message(capsys, ["fit", "--config", config(), "--resume", str(kept / "step=4.ckpt.discarded")])
    assert "Start a new run from it: --ckpt_path" in text
    fit(5, "--ckpt_path", str(kept / "step=4.ckpt.discarded"))
    assert [r.step for r in read_records(kept.parents[1] / "version_1" / "trajectories.jsonl")] == [5]


def test_bug_806_the_checkpoints_of_the_guard_are_no_second_run(config, tmp_path):
    main(["fit", "--config", config(trainer__max_steps=1, collapse_guard__action="rollback")])
    run = tmp_path / "runs" / "tiny" / "version_0"
    (guarded,) = (run / "guard").glob("*.ckpt")
    assert checkpoint_of(tmp_path / "runs") == checkpoint_of(run) == run / "checkpoints" / "last.ckpt"
    assert checkpoint_of(run / "guard") == checkpoint_of(guarded) == guarded


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_taken(config, tmp_path, caplog):
    main(["fit", "--config", config(trainer__max_steps=2, checkpoint__every_n_steps=1)])
    run = tmp_path / "runs" / "tiny" / "version_0"
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1])
    (run / "checkpoints" / "step=2.ckpt").rename(run / "checkpoints" / "step=1.ckpt")
    with caplog.at_level("INFO"):
        main(["fit", "--config", config(trainer__max_steps=3, checkpoint__every_n_steps=1), "--resume", "auto"])
    assert "last.ckpt cannot be read: it has no seal at its end" in caplog.text
    assert f"from {run / 'checkpoints' / 'step=1.ckpt'}" in caplog.text
