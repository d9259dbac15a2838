"""The configurations of pocket-retail build and train."""

import json
from pathlib import Path

import pytest

from hero_pl.cli.lightning import instantiate
from hero_pl.objectives.policy_gradient import GRPO
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.retail.reflector import RetailRules
from hero_pl.pocket.retail.rules import ENV, ENV_ARGS
from hero_pl.reflection.controls import ShuffledReflector
from hero_pl.reflection.none import NoReflector
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.teacher.hindsight import FeedbackOnlyTeacher

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
RETAIL, WARMUP = CONFIGS / "pocket_retail.yaml", CONFIGS / "pocket_retail_warmup.yaml"
SMALL = ["--data.env_args.size=120", "--data.env_args.tasks=200"]
QUIET = [
    "--trajectories.every_n_steps=0",
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
]
EXPECTED = {
    "": SelfReflector,
    "pocket_retail/rule_reflector": RetailRules,
    "pocket_retail/shuffled_diagnosis": ShuffledReflector,
    "pocket_retail/shuffled_without_feedback": ShuffledReflector,
    "baselines/feedback_only": NoReflector,
    "baselines/grpo": None,
}


def compose(*files, arguments=()):
    return instantiate([*(word for file in files for word in ("--config", str(file))), *arguments])


@pytest.mark.parametrize("overlay", EXPECTED)
def test_every_method_composes_and_takes_two_steps(overlay, tiny_config, tmp_path):
    policy = "--model.policy.init_args"
    arguments = [
        *SMALL,
        *QUIET,
        f"{policy}.pretrained=null",
        f"{policy}.tokenizer=hero_pl:pocket-retail",
        f"{policy}.config={json.dumps({**tiny_config, 'max_position_embeddings': 1024})}",
        "--data.limits.max_turns=2",
        "--data.max_action_tokens=4",
        "--held_out.episodes=0",
        "--turn_budget.max_turns=0",
        "--trainer.limit_train_batches=2",
        "--trainer.max_epochs=1",
        f"--trainer.default_root_dir={tmp_path}",
    ]
    cli = compose(RETAIL, *([CONFIGS / f"{overlay}.yaml"] if overlay else []), arguments=arguments)
    objective, expected = cli.model.objective, EXPECTED[overlay]
    if expected is None:
        assert type(objective) is GRPO
    else:
        assert type(objective) is SelfDistillation
        assert type(objective.reflector) is expected
        assert isinstance(objective.teacher, FeedbackOnlyTeacher) == (overlay == "baselines/feedback_only")
        assert objective.teacher.include_reward == (overlay != "pocket_retail/shuffled_without_feedback")
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.datamodule.steps == 2
    assert all(parameter.isfinite().all() for parameter in cli.model.policy.parameters())


def test_a_reduced_warm_up_lowers_the_loss_and_exports(tiny_config, tmp_path):
    arguments = [
        *SMALL,
        *QUIET,
        "--data.tasks_per_step=2",
        "--data.demonstrations.init_args.branches=2",
        f"--model.policy.init_args.config={json.dumps({**tiny_config, 'max_position_embeddings': 1024})}",
        "--model.warmup_steps=0",
        "--model.lr=0.02",
        "--trainer.max_steps=12",
        f"--trainer.default_root_dir={tmp_path}",
        f"--export.folder={tmp_path / 'exported'}",
    ]
    cli = compose(WARMUP, arguments=arguments)
    losses = []
    step = cli.model._update

    def recorded(batch):
        outputs, updated = step(batch)
        losses.append(float(outputs.metrics()["train/loss"]))
        return outputs, updated

    cli.model._update = recorded
    cli.trainer.fit(cli.model, cli.datamodule)
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert (tmp_path / "exported" / "model.safetensors").is_file()


def test_training_and_warm_up_use_one_task_family():
    for file in (RETAIL, WARMUP):
        data = compose(file).datamodule
        assert data.env == ENV
        assert data.env_args == ENV_ARGS
