"""Configurations put together as the command line does, and made small enough to run."""

import json
import re
from pathlib import Path

import pytest

from hero_pl.cli.lightning import instantiate

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def compose():
    """Instantiates configuration files and options."""

    def build(*files, arguments=()):
        return instantiate([*(word for file in files for word in ("--config", str(file))), *arguments])

    return build


@pytest.fixture
def scratch():
    """Options for a model of a given shape, with random weights."""

    def options(config, tokenizer):
        policy = "--model.policy.init_args"
        return [f"{policy}.pretrained=null", f"{policy}.tokenizer={tokenizer}", f"{policy}.config={json.dumps(config)}"]

    return options


@pytest.fixture
def two_steps(scratch, tmp_path):
    """Options for two cheap steps of a pocket configuration."""

    def options(config, tokenizer):
        return [
            *scratch(config, tokenizer),
            "--data.limits.max_turns=2",
            "--held_out.episodes=0",
            "--trajectories.every_n_steps=0",
            "--turn_budget.max_turns=0",
            "--trainer.logger=false",
            "--trainer.enable_checkpointing=false",
            "--trainer.enable_progress_bar=false",
            f"--trainer.default_root_dir={tmp_path}",
            "--trainer.limit_train_batches=2",
            "--trainer.max_epochs=1",
        ]

    return options


@pytest.fixture(scope="session")
def described():
    """Whether a metric stands in ``docs/metrics.md``; names in angle brackets stand for any text."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    names = {
        name for row in re.findall(r"^\| (`[a-z_]+/.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)
    }
    patterns = [re.compile(re.sub(r"<\w+>", r"[\\w/]+", name)) for name in names]

    def known(metric):
        if metric.startswith("val/"):
            metric = metric.replace("val/", "test/", 1)
        return any(pattern.fullmatch(metric) for pattern in patterns)

    known.names = names
    return known
