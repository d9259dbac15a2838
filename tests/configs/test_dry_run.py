"""Every overlay works with the quickstart, and changes only what its comment says."""

import json
import re
import runpy
from pathlib import Path

import pytest
import yaml

import hero_pl.losses as losses
import hero_pl.reflection.controls as controls
import hero_pl.teacher.hindsight as hindsight
import hero_pl.teacher.weights as weights
from hero_pl.cli.lightning import instantiate
from hero_pl.errors import ConfigError
from hero_pl.objectives.mixed import Credit, Mixed
from hero_pl.objectives.policy_gradient import GRPO, RLOO, PolicyGradient, SoftOverlong
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.objectives.sft import SFT
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.reflection.none import NoReflector
from hero_pl.reflection.policy_reflector import PolicyReflector
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.teacher.full_demo import FullDemoTeacher

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
QUICKSTART = CONFIGS / "quickstart.yaml"
OVERLAYS = sorted(path for folder in ("baselines", "controls") for path in (CONFIGS / folder).glob("*.yaml"))


def name(path):
    return path.stem


@pytest.fixture(scope="module")
def kept():
    """The objective of the quickstart, which an overlay changes; not to be trained."""
    return instantiate(["--config", str(QUICKSTART)]).model.objective


@pytest.mark.parametrize("overlay", OVERLAYS, ids=name)
def test_every_overlay_runs_two_steps_of_the_quickstart(overlay, tiny_config, compose, two_steps, described) -> None:
    arguments = two_steps(tiny_config, "hero_pl:pocket-shop")
    tries = 2 if overlay.stem == "dapo" else 1  # no episode succeeds here, so every group is drawn again
    arguments += ["--model.objective.init_args.max_resample=1"] * (tries - 1)
    cli = compose(QUICKSTART, overlay, arguments=arguments)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.datamodule.steps == 2
    assert tries * 2 * 8 <= cli.model.turns <= tries * 2 * 8 * 2  # eight episodes a step, of one or two turns
    assert all(parameter.isfinite().all() for parameter in cli.model.policy.parameters())
    assert not [name for name in cli.trainer.callback_metrics if "/" in name and not described(name)]


@pytest.mark.parametrize("overlay", [None, *sorted((CONFIGS / "pocket_retail").glob("*.yaml"))], ids=str)
def test_pocket_retail_and_its_overlays_run_two_steps(overlay, tiny_config, compose, two_steps) -> None:
    base = CONFIGS / "pocket_retail.yaml"
    env_args = {**yaml.safe_load(base.read_text(encoding="utf-8"))["data"]["env_args"], "size": 100, "tasks": 200}
    arguments = [
        *two_steps({**tiny_config, "max_position_embeddings": 1024}, "hero_pl:pocket-retail"),
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
    own = yaml.safe_load(overlay.read_text(encoding="utf-8"))  # of two files, the later one counts
    assert own["held_out"]["method"] == overlay.stem
    assert own["trainer"]["logger"]["init_args"]["name"] == overlay.stem.replace("_", "-")


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
def test_another_objective_inherits_no_setting_of_hero(baseline, compose) -> None:
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
    "sharp_teacher": ("teacher_temperature", float),
    "off_policy": ("correction", losses.SequenceMask),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_of_hero_changes_one_component(variant, compose, kept) -> None:
    changed, expected = VARIANTS[variant]
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
def test_a_mix_keeps_every_setting_of_the_distillation(mix, compose, kept) -> None:
    objective = compose(QUICKSTART, CONFIGS / "baselines" / f"{mix}.yaml").model.objective
    expected, settings = MIXES[mix]
    assert type(objective) is expected
    assert {key: getattr(objective, key) for key in settings} == settings
    parts = ("reflector", "teacher", "weights", "divergence")
    assert all(type(getattr(objective, part)) is type(getattr(kept, part)) for part in parts)
    assert objective.reflector.mode == kept.reflector.mode
    assert objective.normalize == kept.normalize
    assert type(objective.policy_gradient) is (PolicyGradient if mix == "credit_turns" else GRPO)


@pytest.mark.parametrize("baseline", ["gspo", "cispo", "dual_clip"])
def test_a_method_that_differs_from_grpo_by_its_ratio_makes_steps_in_which_the_ratio_is_not_1(
    baseline, compose
) -> None:
    assert compose(QUICKSTART, CONFIGS / "baselines" / f"{baseline}.yaml").model.updates_per_batch > 1


MODES = {
    "shuffled_diagnosis": "batch",
    "shuffled_without_feedback": "batch",
    "generic_diagnosis": "generic",
    "random_tokens": "random_tokens",
    "shuffled_turns": "turns",
    "blind_reflector": None,
}


@pytest.mark.parametrize("control", MODES)
def test_a_control_wraps_the_rules_and_keeps_the_hint(control, compose) -> None:
    objective = compose(QUICKSTART, CONFIGS / "controls" / f"{control}.yaml").model.objective
    expected = controls.BlindReflector if MODES[control] is None else controls.ShuffledReflector
    assert type(objective.reflector) is expected
    inner = objective.reflector.inner
    assert type(inner) is (SelfReflector if control == "blind_reflector" else ShopRules)
    assert control != "blind_reflector" or inner.mode == "transcript"  # else it reads the replies
    assert getattr(objective.reflector, "mode", None) == MODES[control]
    feedback = control != "shuffled_without_feedback"
    assert objective.teacher.include_next_observation is objective.teacher.include_reward is feedback


def test_the_control_without_content_has_the_hint_of_the_rules(compose) -> None:
    true, empty = (
        compose(QUICKSTART, CONFIGS / path).model.objective
        for path in ("baselines/rule_reflector.yaml", "controls/empty_hint.yaml")
    )
    assert type(empty.teacher) is hindsight.EmptyHintTeacher
    assert type(empty.reflector) is type(true.reflector) is ShopRules
    assert empty.teacher.scaffold == true.teacher.scaffold


def test_every_overlay_is_described_by_a_test() -> None:
    named = runpy.run_path(str(Path(__file__).with_name("test_named_methods.py")))["METHODS"]
    assert {path.stem for path in OVERLAYS} == {*EXPECTED, *VARIANTS, *MIXES, *MODES, "empty_hint", *named}


def test_the_robust_preset_freezes_teacher_and_reflector_and_keeps_the_reflector_s_mode(compose) -> None:
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
def test_the_preset_of_the_paper_is_live_and_plain_and_leaves_the_dialect_alone(base, compose) -> None:
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


def test_hardware_overlays_change_no_part_of_the_method(compose) -> None:
    kept = compose(QUICKSTART).config
    for file in ("one_gpu.yaml", "data_parallel.yaml", "fsdp2.yaml"):  # on the CPU, so that they parse on every machine
        cli = compose(
            QUICKSTART, CONFIGS / "hardware" / file, arguments=["--trainer.accelerator=cpu", "--trainer.devices=1"]
        )
        assert cli.config.model == kept.model
        assert cli.config.data == kept.data


def test_grpo_without_groups_is_refused_before_a_model_is_read(compose) -> None:
    cli = compose(QUICKSTART, CONFIGS / "baselines" / "grpo.yaml", arguments=["--data.group_size=1"])
    with pytest.raises(ConfigError, match="group_size=1"):
        cli.model.objective.check(cli.datamodule.group_size)
