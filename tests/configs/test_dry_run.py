"""Every overlay composes with the quickstart and runs; the configurations for a 4B model build without memory."""

import json
import re
import runpy
from pathlib import Path

import pytest
import torch
import yaml

import hero_pl.losses as losses
import hero_pl.reflection.controls as controls
import hero_pl.teacher.hindsight as hindsight
import hero_pl.teacher.weights as weights
from hero_pl.chat.actions import ReAct, ToolCall
from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.chat.template import ChatTemplate
from hero_pl.cli.lightning import instantiate
from hero_pl.errors import ConfigError
from hero_pl.objectives.mixed import Credit, Mixed
from hero_pl.objectives.policy_gradient import GRPO, RLOO, PolicyGradient, SoftOverlong
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.objectives.sft import SFT
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.none import NoReflector
from hero_pl.reflection.policy_reflector import PolicyReflector
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.teacher.full_demo import FullDemoTeacher

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
QUICKSTART = CONFIGS / "quickstart.yaml"
OVERLAYS = sorted(path for folder in ("baselines", "controls") for path in (CONFIGS / folder).glob("*.yaml"))
SHARED = ROOT / ".." / "shared"
QWEN3_4B = {
    "model_type": "qwen3",
    "hidden_size": 2560,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 9728,
    "vocab_size": 151936,
    "max_position_embeddings": 262144,
    "tie_word_embeddings": True,
}
"""Shape of Qwen3-4B; the adapter of rank 32 comes on top."""

QWEN3_30B_A3B = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "vocab_size": 151936,
    "max_position_embeddings": 262144,
    "tie_word_embeddings": False,
}
"""Shape of Qwen3-30B-A3B: 128 experts in each layer, 8 of them used."""


def name(path):
    return path.stem


def compose(*files, arguments=()):
    return instantiate([*(word for file in files for word in ("--config", str(file))), *arguments])


def scratch(config, tokenizer):
    policy = "--model.policy.init_args"
    return [f"{policy}.pretrained=null", f"{policy}.tokenizer={tokenizer}", f"{policy}.config={json.dumps(config)}"]


def two_steps(tiny_config, tokenizer, tmp_path):
    """Arguments that make two cheap steps of a pocket configuration."""
    return [
        *scratch(tiny_config, tokenizer),
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


@pytest.mark.parametrize("overlay", OVERLAYS, ids=name)
def test_every_overlay_runs_two_steps_of_the_quickstart(overlay, tiny_config, tmp_path) -> None:
    arguments = two_steps(tiny_config, "hero_pl:pocket-shop", tmp_path)
    tries = 2 if overlay.stem == "dapo" else 1  # no episode succeeds here, so every group is drawn again
    arguments += ["--model.objective.init_args.max_resample=1"] * (tries - 1)
    cli = compose(QUICKSTART, overlay, arguments=arguments)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.datamodule.steps == 2
    assert tries * 2 * 8 <= cli.model.turns <= tries * 2 * 8 * 2  # eight episodes a step, of one or two turns
    assert all(parameter.isfinite().all() for parameter in cli.model.policy.parameters())


@pytest.mark.parametrize("overlay", [None, *sorted((CONFIGS / "pocket_retail").glob("*.yaml"))], ids=str)
def test_pocket_retail_and_its_overlays_run_two_steps(overlay, tiny_config, tmp_path) -> None:
    base = CONFIGS / "pocket_retail.yaml"
    env_args = {**yaml.safe_load(base.read_text(encoding="utf-8"))["data"]["env_args"], "size": 100, "tasks": 200}
    arguments = [
        *two_steps({**tiny_config, "max_position_embeddings": 1024}, "hero_pl:pocket-retail", tmp_path),
        f"--data.env_args={json.dumps(env_args)}",
    ]
    cli = compose(*([base] if overlay is None else [base, overlay]), arguments=arguments)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.datamodule.steps == 2
    assert 2 * 8 <= cli.model.turns <= 2 * 8 * 2


@pytest.mark.parametrize("overlay", [*OVERLAYS, *(CONFIGS / "hardware").glob("*.yaml")], ids=name)
def test_an_overlay_starts_with_the_command_that_runs_it(overlay) -> None:
    command = overlay.read_text(encoding="utf-8").splitlines()[0]
    named = re.findall(r"--config (\S+)", command)
    assert command.startswith("# hero_pl fit --config configs/")
    assert named[-1] == str(overlay.relative_to(ROOT))
    assert all((ROOT / path).exists() for path in named)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=name)
def test_each_run_is_recorded_under_a_name_of_its_own(overlay) -> None:
    cli = compose(QUICKSTART, overlay)
    assert cli.config.held_out.method == overlay.stem
    assert cli.config.trainer.logger.init_args.name == overlay.stem.replace("_", "-")


EXPECTED = {
    "grpo": (GRPO, {"normalize": "seq_mean_token_mean_keep_empty", "scale_rewards": "group"}),
    "dr_grpo": (GRPO, {"normalize": "seq_mean_token_sum_norm", "constant": 144.0, "scale_rewards": "none"}),
    "dapo": (GRPO, {"normalize": "token_mean", "max_resample": 10, "overlong": SoftOverlong(144, 36)}),
    "gspo": (GRPO, {"normalize": "seq_mean_token_mean_keep_empty"}),
    "rloo": (RLOO, {"normalize": "token_mean"}),
    "reinforce": (PolicyGradient, {"normalize": "token_mean"}),
    "rejection_sft": (SFT, {"normalize": "token_mean", "reward_threshold": 1.0, "max_per_task": 4}),
    "supervised": (SFT, {"normalize": "turn_mean", "reward_threshold": None}),
}


@pytest.mark.parametrize("baseline", EXPECTED)
def test_another_objective_inherits_no_setting_of_hero(baseline) -> None:
    objective = compose(QUICKSTART, CONFIGS / "baselines" / f"{baseline}.yaml").model.objective
    expected, settings = EXPECTED[baseline]
    assert type(objective) is expected
    assert {key: getattr(objective, key) for key in settings} == settings


VARIANTS = {
    "feedback_only": ("teacher", hindsight.FeedbackOnlyTeacher),
    "reflection_only": ("teacher", hindsight.HindsightTeacher),
    "rule_reflector": ("reflector", ShopRules),
    "policy_reflector": ("reflector", PolicyReflector),
    "live_teacher": ("weights", weights.LiveWeights),
    "ema_teacher": ("weights", weights.EMAWeights),
    "periodic_teacher": ("weights", weights.PeriodicWeights),
    "gated_teacher": ("weights", weights.GatedWeights),
    "trust_region_teacher": ("weights", weights.TrustRegionWeights),
    "forward_kl": ("divergence", losses.ForwardKL),
    "reverse_kl": ("divergence", losses.ReverseKL),
    "sampled_token": ("divergence", losses.SampledToken),
    "full_demo": ("teacher", FullDemoTeacher),
    "full_demo_buffer": ("teacher", FullDemoTeacher),
    "full_demo_oracle": ("teacher", FullDemoTeacher),
    "full_demo_matched": ("teacher", FullDemoTeacher),
    "gated_contrastive": ("gate", losses.Contrastive),
    "gated_sigmoid": ("gate", losses.SigmoidGap),
    "gated_confidence": ("gate", losses.TeacherConfidence),
    "gated_divergence": ("gate", losses.StepDivergence),
    "gated_entropy": ("gate", losses.HighEntropy),
    "failures_only": ("failures_only", bool),
    "off_policy": ("correction", losses.SequenceMask),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_of_hero_changes_one_component(variant) -> None:
    changed, expected = VARIANTS[variant]
    kept = compose(QUICKSTART).model.objective
    objective = compose(QUICKSTART, CONFIGS / "baselines" / f"{variant}.yaml").model.objective
    assert type(objective) is SelfDistillation
    assert type(getattr(objective, changed)) is expected
    same = {"reflector", "teacher", "weights", "divergence"} - {changed}
    if variant == "feedback_only" or "full_demo" in variant:  # they show no diagnosis, so none is made
        same -= {"reflector"}
        assert type(objective.reflector) is NoReflector
    assert all(type(getattr(objective, part)) is type(getattr(kept, part)) for part in same)
    assert objective.normalize == kept.normalize


MIXES = {
    "mixed": (Mixed, {"mix": "convex", "distillation_weight": 0.7}),
    "additive": (Mixed, {"mix": "additive", "distillation_weight": 0.5}),
    "credit_turns": (Credit, {"rule": "bayes_turn"}),
}


@pytest.mark.parametrize("mix", MIXES)
def test_a_mix_keeps_every_setting_of_the_distillation(mix) -> None:
    kept = compose(QUICKSTART).model.objective
    objective = compose(QUICKSTART, CONFIGS / "baselines" / f"{mix}.yaml").model.objective
    expected, settings = MIXES[mix]
    assert type(objective) is expected
    assert {key: getattr(objective, key) for key in settings} == settings
    parts = ("reflector", "teacher", "weights", "divergence")
    assert all(type(getattr(objective, part)) is type(getattr(kept, part)) for part in parts)
    assert objective.reflector.mode == kept.reflector.mode
    assert objective.normalize == kept.normalize
    assert type(objective.policy_gradient) is (PolicyGradient if mix == "credit_turns" else GRPO)


MODES = {
    "shuffled_diagnosis": "batch",
    "shuffled_without_feedback": "batch",
    "generic_diagnosis": "generic",
    "random_tokens": "random_tokens",
    "shuffled_turns": "turns",
    "blind_reflector": None,
}


@pytest.mark.parametrize("control", MODES)
def test_a_control_wraps_the_rules_and_keeps_the_hint(control) -> None:
    objective = compose(QUICKSTART, CONFIGS / "controls" / f"{control}.yaml").model.objective
    expected = controls.BlindReflector if MODES[control] is None else controls.ShuffledReflector
    assert type(objective.reflector) is expected
    assert type(objective.reflector.inner) is ShopRules
    assert getattr(objective.reflector, "mode", None) == MODES[control]
    feedback = control != "shuffled_without_feedback"
    assert objective.teacher.include_next_observation is objective.teacher.include_reward is feedback


def test_every_overlay_is_described_by_a_test() -> None:
    named = runpy.run_path(str(Path(__file__).with_name("test_named_methods.py")))["METHODS"]
    assert {path.stem for path in OVERLAYS} == {*EXPECTED, *VARIANTS, *MIXES, *MODES, *named}


def test_the_robust_preset_freezes_teacher_and_reflector_and_keeps_the_reflector_s_mode() -> None:
    objective = compose(QUICKSTART, CONFIGS / "hero_robust.yaml").model.objective
    assert isinstance(objective.weights, weights.InitialWeights)
    assert isinstance(objective.reflector, SelfReflector)
    assert (objective.reflector.weights, objective.reflector.mode) == ("initial", "continue")
    assert (objective.divergence.clip_mode, objective.divergence.clip) == ("token", 0.5)
    assert objective.confidence_weights == {"low": 0.5, "medium": 1.0, "high": 1.0}
    assert type(objective) is Mixed
    assert (objective.mix, objective.distillation_weight) == ("convex", 0.7)
    objective.check(1)  # its policy gradient needs no groups


@pytest.mark.parametrize("base", ["quickstart", "webshop_qwen3_4b"])
def test_the_preset_of_the_paper_is_live_and_plain_and_leaves_the_dialect_alone(base) -> None:
    kept = compose(CONFIGS / f"{base}.yaml").model.objective
    objective = compose(CONFIGS / f"{base}.yaml", CONFIGS / "hero_paper.yaml").model.objective
    assert type(objective) is SelfDistillation
    assert type(objective.weights) is weights.LiveWeights
    assert (objective.reflector.weights, objective.reflector.mode) == ("live", kept.reflector.mode)
    assert (objective.divergence.beta, objective.divergence.clip_mode) == (0.5, "none")
    assert objective.divergence.support == kept.divergence.support
    assert (objective.normalize, objective.gate, objective.correction) == ("token_mean", None, None)
    assert set(objective.confidence_weights.values()) == {1.0}
    facts = dict.fromkeys(("next_observation", "reward", "outcome", "diagnosis", "confidence", "target"), "x")
    assert objective.teacher.template.render(len, facts) == kept.teacher.template.render(len, facts)


def test_hardware_overlays_change_no_part_of_the_method() -> None:
    kept = compose(QUICKSTART).config
    for file in ("one_gpu.yaml", "data_parallel.yaml"):  # on the CPU, so that they parse on every machine
        cli = compose(
            QUICKSTART, CONFIGS / "hardware" / file, arguments=["--trainer.accelerator=cpu", "--trainer.devices=1"]
        )
        assert cli.config.model == kept.model
        assert cli.config.data == kept.data


LARGE = {
    "webshop_qwen3_4b": ("hero_pl/WebShop-v0", ReAct, QWEN3_4B, 4.02e9),
    "retail_qwen3_4b": ("hero_pl/TauBenchRetail-v0", ToolCall, QWEN3_4B, 4.02e9),
    "webshop_qwen3_30b_a3b": ("hero_pl/WebShop-v0", ReAct, QWEN3_30B_A3B, 30.5e9),
    "retail_qwen3_30b_a3b": ("hero_pl/TauBenchRetail-v0", ToolCall, QWEN3_30B_A3B, 30.5e9),
}
"""Configuration -> environment, dialect, shape and number of parameters of its model."""


@pytest.mark.parametrize("config", LARGE)
@pytest.mark.parametrize("preset", [(), ("hero_paper",), ("hero_robust",), ("hardware/small_memory",)], ids=str)
def test_a_large_configuration_builds_its_model_without_memory(config, preset, tmp_path) -> None:
    pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    byte_tokenizer().save_pretrained(tmp_path)
    files = [CONFIGS / f"{part}.yaml" for part in (config, *preset)]
    environment, parser, shape, size = LARGE[config]
    cli = compose(*files, arguments=[*scratch(shape, tmp_path), "--trainer.accelerator=cpu"])
    assert cli.datamodule.env == environment
    assert cli.datamodule.group_size == 1
    assert cli.model.adam["lr"] == 1e-5
    policy = cli.model.policy
    assert type(policy.parser) is parser
    with torch.device("meta"):
        policy.load()
    frozen = [parameter for parameter in policy.parameters() if not parameter.requires_grad]
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    assert all(parameter.is_meta for parameter in (*frozen, *trained))
    assert sum(parameter.numel() for parameter in frozen) == pytest.approx(size, rel=0.01)
    assert 0 < sum(parameter.numel() for parameter in trained) < 0.02 * size
    assert {parameter.dtype for parameter in frozen} == {torch.bfloat16}


@pytest.mark.parametrize("config", LARGE)
def test_a_large_configuration_names_its_model(config) -> None:
    text = (CONFIGS / f"{config}.yaml").read_text(encoding="utf-8")
    model = "Qwen3-30B-A3B-Instruct-2507" if "30b" in config else "Qwen3-4B-Instruct-2507"
    assert f"pretrained: Qwen/{model}" in text


@pytest.mark.parametrize("environment", ["webshop", "retail"])
def test_the_two_sizes_differ_in_the_model_alone(environment) -> None:
    small, large = (compose(CONFIGS / f"{environment}_qwen3_{size}.yaml").config for size in ("4b", "30b_a3b"))
    assert small.data == large.data
    assert small.model.objective == large.model.objective
    assert (small.turn_budget, small.held_out) == (large.turn_budget, large.held_out)


def test_the_adapter_of_the_mixture_leaves_experts_and_router_alone(tmp_path) -> None:
    pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    byte_tokenizer().save_pretrained(tmp_path)
    shape = {**QWEN3_30B_A3B, "num_hidden_layers": 1}
    arguments = [*scratch(shape, tmp_path), "--trainer.accelerator=cpu"]
    policy = compose(CONFIGS / "webshop_qwen3_30b_a3b.yaml", arguments=arguments).model.policy
    with torch.device("meta"):
        policy.load()
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".self_attn." in name and "lora_" in name for name in trained)


def test_the_webshop_configuration_finds_its_tasks() -> None:
    data = compose(CONFIGS / "webshop_qwen3_4b.yaml", arguments=["--data.env_args={products: 50}"]).datamodule
    assert all(data.collector(stage).task_ids for stage in ("train", "validate", "test"))


@pytest.fixture
def official_data():
    """The argument that names the official data, which only a checkout of it has."""
    folder = SHARED / "data" / "taubench"
    if not folder.is_dir():
        pytest.skip("the folder shared/data/taubench is not beside the repository")
    return f"--data.env_args={{data_dir: {folder.resolve()}}}"


def test_the_retail_configuration_finds_its_tasks(official_data) -> None:
    arguments = [official_data]
    data = compose(CONFIGS / "retail_qwen3_4b.yaml", arguments=arguments).datamodule
    assert {stage: len(data.collector(stage).task_ids) for stage in ("train", "validate", "test")} == {
        "train": 500,
        "validate": 20,
        "test": 115,
    }


@pytest.mark.parametrize("overlay", ["full_demo", "expert_warmup"])
def test_the_expert_of_the_retail_overlays_solves_official_tasks(overlay, official_data) -> None:
    files = [CONFIGS / "retail_qwen3_4b.yaml", CONFIGS / "tau_bench" / f"{overlay}.yaml"]
    cli = compose(*files, arguments=[official_data])
    expert = cli.datamodule.demonstrations or cli.model.objective.teacher.expert
    collector = cli.datamodule.collector("train")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ tools | tojson }}" + tokenizer.chat_template
    policy = ScriptedPolicy(template=ChatTemplate(tokenizer), parser=cli.model.policy.parser)
    policy.load()
    played = expert.make(
        [EpisodeSpec(task, 0, i) for i, task in enumerate(collector.task_ids[:4])], policy.dialect, collector
    )
    assert [trajectory.reward for trajectory in played] == [1.0] * 4
    assert all("<tool_call>" in trajectory.turns[0].text for trajectory in played)


def test_the_retail_configuration_takes_a_model_as_user_and_reads_no_weights() -> None:
    text = (CONFIGS / "retail_qwen3_4b.yaml").read_text(encoding="utf-8")
    user = re.search(r"""'(\{"user": \{"pretrained".*\})'""", text)
    assert user is not None
    data = compose(CONFIGS / "retail_qwen3_4b.yaml", arguments=[f"--data.env_args={user[1]}"]).datamodule
    assert data.env_args["user"] == {
        "pretrained": "Qwen/Qwen3-4B-Instruct-2507",
        "dtype": "bfloat16",
        "strategy": "react",
    }


def test_grpo_without_groups_is_refused_before_a_model_is_read() -> None:
    cli = compose(QUICKSTART, CONFIGS / "baselines" / "grpo.yaml", arguments=["--data.group_size=1"])
    with pytest.raises(ConfigError, match="group_size=1"):
        cli.model.objective.check(cli.datamodule.group_size)
