"""The base policy can be trained again: a reduced version of ``configs/pocket_warmup.yaml``."""

import csv
import json
from pathlib import Path

import pytest

from hero_pl.cli.lightning import HeroCLI

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def warm_up(tmp_path, monkeypatch):
    """Trains with the shipped configuration and returns the run folder."""

    def run(steps, *more):
        monkeypatch.chdir(ROOT)
        logger = ["--trainer.logger.init_args.save_dir", str(tmp_path)]
        quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_checkpointing", "false"]
        length = ["--trainer.max_steps", str(steps), "--model.total_steps", str(steps)]
        HeroCLI(args=["fit", "--config", "configs/pocket_warmup.yaml", *logger, *quiet, *length, *more])
        return next(tmp_path.rglob("metrics.csv")).parent

    return run


def test_from_random_weights_the_shop_is_learned_from_clean_demonstrations(warm_up):
    """Otherwise no habit of the base policy could be changed by training."""
    clean = ("--data.demonstrations.init_args.clean", "true", "--data.tasks_per_step", "24", "--model.lr", "1e-2")
    folder = warm_up(60, *clean, "--held_out.greedy", "false", "--held_out.episodes", "50")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["before"]["success"] == 0.0
    assert summary["after"]["success"] >= 0.8
    assert (folder / "huggingface" / "model.safetensors").exists()


def test_a_short_warm_up_on_the_real_mixture_learns_the_format_of_all_rows(warm_up):
    folder = warm_up(12, "--held_out.episodes", "0", "--trainer.log_every_n_steps", "1", "--data.tasks_per_step", "8")
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert float(rows[-1]["train/loss"]) < 0.75 * float(rows[0]["train/loss"])
