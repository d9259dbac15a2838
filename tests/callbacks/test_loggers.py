"""Loggers besides metrics.csv: they have their own folders, do not change a run, and cannot end it."""

import importlib.util
import json
import os
import warnings

import pytest
import torch
from lightning.pytorch.loggers import Logger

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.callbacks.loggers import Beside, ShowRun, without_keys
from hero_pl.callbacks.run_checkpoint import RunCheckpoint
from hero_pl.callbacks.run_logger import RunLogger
from hero_pl.cli.main import main

installed = {name: importlib.util.find_spec(name) is not None for name in ("tensorboard", "wandb")}
TENSORBOARD = ["--tensorboard", "true"]
WANDB = ["--wandb.project", "tiny", "--wandb.offline", "true"]


class Gone(Logger):
    """A service that cannot be reached."""

    name = version = "gone"

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        raise ConnectionError("refused for key 0123456789abcdef0123456789abcdef")


def test_a_service_that_fails_is_reported_once_and_not_used_again(tmp_path):
    logger = Beside("Gone", lambda: tmp_path, lambda folder: Gone())
    with pytest.warns(UserWarning, match=r"Gone failed \(ConnectionError: refused for key \[key\]\).*metrics\.csv"):
        logger.log_metrics({"loss": 1.0}, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logger.log_metrics({"loss": 1.0}, 1)
        logger.finalize("success")


def test_a_run_trains_and_is_saved_although_a_logger_fails(tiny_module, tiny_data, fit, tmp_path):
    loggers = [RunLogger(str(tmp_path)), Beside("Gone", lambda: tmp_path, lambda folder: Gone())]
    with pytest.warns(UserWarning, match="Gone failed"):
        fit(tiny_module(), tiny_data(), 1, logger=loggers, callbacks=[RunCheckpoint(), ShowRun()])
    assert (tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt").is_file()
    assert (tmp_path / "run" / "version_0" / "metrics.csv").is_file()


def test_what_looks_like_a_key_is_blacked_out():
    assert without_keys("key 0123456789abcdef0123 of metrics.csv") == "key [key] of metrics.csv"


@pytest.mark.parametrize("package", installed)
def test_a_missing_package_is_named_before_a_model_is_read(package, config, capsys, monkeypatch, loads_no_model):
    monkeypatch.setattr("hero_pl.callbacks.loggers.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["fit", "--config", config(), *(TENSORBOARD if package == "tensorboard" else WANDB)])
    assert (
        f"--{package} needs the package {package}. Install it with: pip install 'hero_pl[logs]'"
        in capsys.readouterr().err
    )


def outcome(folder):
    state = AtomicCheckpointIO().load_checkpoint(folder / "checkpoints" / "last.ckpt")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    timeless = {key: value for key, value in summary.items() if key not in ("wall_time_s", "method", "curve")}
    return state["state_dict"], state["hero"]["turns"], timeless


@pytest.mark.skipif(not all(installed.values()), reason="needs the extra logs: tensorboard and wandb")
def test_every_choice_of_loggers_leaves_the_same_checkpoint_and_summary(config, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "WANDB_SILENT", "true")
    settings = {"trainer__max_steps": 1, "held_out__episodes": 1}
    result = {}
    for name, words in {"none": [], "tb": TENSORBOARD, "wb": WANDB, "both": [*TENSORBOARD, *WANDB]}.items():
        main(["fit", "--config", config(**settings), "--trainer.logger.init_args.name", name, *words])
        folder = tmp_path / "runs" / name / "version_0"
        result[name] = outcome(folder)
        assert (folder / "metrics.csv").is_file()
        assert (folder / "tensorboard").is_dir() == (words[:2] == TENSORBOARD)
        assert bool(list(folder.glob("wandb/offline-run-*"))) == (WANDB[0] in words)
    weights, *rest = result["none"]
    for name, (others, *other_rest) in result.items():
        assert other_rest == rest, name
        assert all(torch.equal(weights[key], others[key]) for key in weights), name


@pytest.mark.skipif(not installed["tensorboard"], reason="needs the extra logs: tensorboard")
def test_tensorboard_gets_the_curves_and_episodes_that_no_reader_takes_for_markup(config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    main(["fit", "--config", config(trainer__max_steps=1), *TENSORBOARD])
    events = EventAccumulator(str(tmp_path / "runs" / "tiny" / "version_0" / "tensorboard")).Reload()
    assert "train/loss" in events.Tags()["scalars"]
    assert "episodes/text_summary" in events.Tags()["tensors"]
