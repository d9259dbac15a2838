"""The examples of docs/extending.md work as they stand there."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
import torch

from hero_pl.lightning_cli import instantiate
from hero_pl.rollout.check_env import check_env

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The module that the page builds up, importable."""
    (tmp_path / "mine.py").write_text("\n\n".join(blocks("python")), encoding="utf-8")
    (tmp_path / "mine.yaml").write_text("\n".join(blocks("yaml")), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("mine")
    sys.modules.pop("mine")
    gymnasium.registry.pop("mine/Capitals-v0")


def test_the_environment_keeps_the_contract(mine) -> None:
    assert check_env("mine:mine/Capitals-v0") == []


def test_the_divergence_is_zero_without_a_hint_and_differentiable_with_one(mine) -> None:
    student = torch.randn(3, 5, requires_grad=True)
    assert mine.Brier()(student, student).tolist() == [0.0, 0.0, 0.0]
    teacher = torch.randn(3, 5, requires_grad=True)
    mine.Brier()(student, teacher).sum().backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_the_overlay_trains_with_all_three(mine, tiny_config, tmp_path) -> None:
    policy = "--model.policy.init_args"
    cli = instantiate(
        [
            f"--config={ROOT / 'configs' / 'quickstart.yaml'}",
            f"--config={tmp_path / 'mine.yaml'}",
            f"{policy}.pretrained=null",
            f"{policy}.tokenizer=hero_pl:pocket-shop",
            f"{policy}.config={tiny_config}",
            "--data.tasks_per_step=4",
            "--data.max_action_tokens=1",
            "--data.temperature=0.01",
            "--held_out.episodes=0",
            "--turn_budget.max_turns=0",
            "--trajectories.every_n_steps=0",
            "--trainer.logger=false",
            "--trainer.enable_checkpointing=false",
            "--trainer.enable_progress_bar=false",
            "--trainer.max_epochs=2",
            f"--trainer.default_root_dir={tmp_path}",
        ]
    )
    cli.trainer.fit(cli.model, cli.datamodule)
    objective = cli.model.objective
    assert isinstance(objective.divergence, mine.Brier)
    assert isinstance(objective.reflector, mine.Repeats)
    assert cli.trainer.global_step == 2
    assert cli.model.turns == 2 * 4 * 3  # a policy at random never names a capital


def test_the_command_line_finds_them_from_another_folder(mine, tmp_path) -> None:
    script = "import sys; from hero_pl.cli import main; main(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", script, "check-env", "mine:mine/Capitals-v0"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "keeps the contract" in done.stdout, done.stderr
