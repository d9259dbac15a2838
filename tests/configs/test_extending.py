"""The examples of docs/extending.md work unchanged."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

from hero_pl.cli.lightning import instantiate
from hero_pl.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The module with all examples of the page, importable."""
    (tmp_path / "mine.py").write_text("\n\n".join(blocks("python")), encoding="utf-8")
    for name, text in zip(("mine.yaml", "imitation.yaml"), blocks("yaml"), strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("mine")
    sys.modules.pop("mine")
    gymnasium.registry.pop("mine/Capitals-v0")


TESTS = re.findall(r"^def (test_\w+)\(", PAGE, re.MULTILINE)


def test_the_page_has_one_test_for_each_kind_of_component() -> None:
    assert len(TESTS) == 4


@pytest.mark.parametrize("name", TESTS)
def test_each_test_of_the_page_passes(name, mine) -> None:
    getattr(mine, name)()


def trained(overlay, tiny_config, tmp_path):
    """Two steps of the quickstart with an overlay and a policy with random weights."""
    policy = "--model.policy.init_args"
    cli = instantiate(
        [
            f"--config={ROOT / 'configs' / 'quickstart.yaml'}",
            f"--config={tmp_path / overlay}",
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
    return cli


def test_the_overlay_trains_with_all_three(mine, tiny_config, tmp_path) -> None:
    cli = trained("mine.yaml", tiny_config, tmp_path)
    objective = cli.model.objective
    assert isinstance(objective.divergence, mine.Brier)
    assert isinstance(objective.reflector, mine.Repeats)
    assert cli.trainer.global_step == 2
    assert cli.model.turns == 2 * 4 * 3  # a policy at random never names a capital


def test_the_overlay_with_the_objective_trains(mine, tiny_config, tmp_path) -> None:
    cli = trained("imitation.yaml", tiny_config, tmp_path)
    assert isinstance(cli.model.objective, mine.Imitation)
    assert cli.model.last_metrics["imitation/won"] == 0.0
    assert cli.model.last_metrics["train/skipped_steps"] == 1.0  # nothing was won, so nothing is imitated


def test_the_list_of_components_has_them(mine, tmp_path, capsys) -> None:
    main(["components", "--config", str(tmp_path / "mine.yaml")])
    listed = capsys.readouterr().out
    assert "mine.Brier               Squared distance of the student's probabilities" in listed
    assert "mine.Imitation           Likelihood of the replies of successful episodes." in listed


def test_the_command_line_finds_them_from_another_folder(mine, tmp_path) -> None:
    script = "import sys; from hero_pl.cli.main import main; main(sys.argv[1:])"
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
    assert "follows the API" in done.stdout, done.stderr
