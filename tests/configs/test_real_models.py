"""Configurations for real models check hints before training, and those of SmolLM2 run on a tiny model."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from hero_pl.cli.lightning import instantiate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
REAL = ["webshop_qwen3_4b", "retail_qwen3_4b", "webshop_qwen3_30b_a3b", "retail_qwen3_30b_a3b", "smollm2_shop"]
REAL += ["smollm2_webshop", "smollm2_textworld"]


@pytest.mark.parametrize("config", REAL)
@pytest.mark.parametrize("preset", [None, "hero_paper", "hero_robust"])
def test_a_real_model_is_taught_in_a_wording_that_it_was_measured_to_read(config, preset) -> None:
    files = [config] if preset is None else [config, preset]
    words = [word for file in files for word in ("--config", str(CONFIGS / f"{file}.yaml"))]
    teacher = instantiate([*words, "--trainer.accelerator=cpu"]).model.objective.teacher
    assert teacher.auto
    assert not teacher.force


TEXTWORLD = pytest.mark.skipif(not find_spec("textworld"), reason="needs the extra `textworld`")


@pytest.mark.parametrize(
    "config",
    [
        "smollm2_shop",
        "smollm2_shop_sft",
        "smollm2_webshop",
        "smollm2_webshop_sft",
        pytest.param("smollm2_textworld", marks=TEXTWORLD),
        pytest.param("smollm2_textworld_sft", marks=TEXTWORLD),
    ],
)
def test_the_runs_of_smollm2_take_a_step_with_a_tiny_model(config, tiny_config, tmp_path) -> None:
    policy = "--model.policy.init_args"
    arguments = [
        f"{policy}.pretrained=null",
        f"{policy}.tokenizer=hero_pl:pocket-shop",
        f"{policy}.config={json.dumps({**tiny_config, 'max_position_embeddings': 8192})}",
        f"{policy}.max_length=8192",  # its tokenizer knows few words
        f"{policy}.lora=null",
        "--data.tasks_per_step=2",
        "--data.limits.max_turns=2",
        "--held_out.episodes=0",
        "--export.enabled=false",
        "--trajectories.every_n_steps=0",
        "--turn_budget.max_turns=0",
        "--trainer.logger=false",
        "--trainer.enable_checkpointing=false",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.limit_train_batches=1",
        "--trainer.max_epochs=1",
    ]
    force = [] if config.endswith("_sft") else ["--force=true"]  # random weights read nothing
    cli = instantiate(["--config", str(CONFIGS / f"{config}.yaml"), *arguments, *force])
    cli.trainer.fit(cli.model, cli.datamodule)
    first = cli.datamodule.collector("train").env.reset(seed=0)[1]
    assert "Example:" in first["system_prompt"]
    assert cli.model.turns > 0


@pytest.mark.parametrize("name", ["smollm2_shop", "smollm2_webshop", "smollm2_textworld"])
def test_both_runs_of_smollm2_show_the_same_prompt(name) -> None:
    shown = [yaml.safe_load((CONFIGS / f"{name}{end}.yaml").read_text())["data"] for end in ("", "_sft")]
    assert shown[0]["env_args"]["system_prompt"] == shown[1]["env_args"]["system_prompt"]
