"""Overlays that are named after a paper have the settings of the paper."""

from pathlib import Path
from typing import Any

import pytest

from hero_pl.cli.lightning import instantiate
from hero_pl.losses import GatedSampledToken, JensenShannon, SampledToken, SigmoidGap
from hero_pl.objectives.mixed import Credit, Mixed
from hero_pl.objectives.policy_gradient import GRPO
from hero_pl.objectives.schedules import Blend, Schedule
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.reflection.none import NoReflector
from hero_pl.teacher.full_demo import FullDemoTeacher

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

METHODS: dict[str, tuple[type, dict[str, Any], dict[str, type]]] = {
    "credit": (Credit, {"rule": "advantage_reweight", "strength": 0.5}, {}),
    "rlsd": (Credit, {"rule": "rlsd", "strength": 0.5, "band": 0.2}, {}),
    "agent_opsd": (Credit, {"rule": "turn_belief", "strength": 0.5, "band": 0.2, "decay": 0.95}, {}),
    "credit_gap_magnitude": (Credit, {"rule": "gap_magnitude"}, {}),
    "sdar": (
        Mixed,
        {"mix": "additive", "distillation_weight": 0.1, "normalize": "token_mean", "gate": None},
        {"divergence": GatedSampledToken},
    ),
    "smrc_sd": (
        Mixed,
        {"mix": "additive", "distillation_weight": 0.01, "normalize": "token_mean"},
        {"divergence": SampledToken, "teacher": FullDemoTeacher, "reflector": NoReflector},
    ),
    "teacher_decay": (
        Mixed,
        {"mix": "additive", "distillation_weight": Schedule(0.5, 0.0, "linear", begin=4, steps=12)},
        {},
    ),
    "turn_blend": (
        SelfDistillation,
        {
            "normalize": "seq_mean_token_mean",
            "blend": Blend("traj_mean_turn_mean", Schedule(0.0, 1.0, "linear", begin=4, steps=12)),
        },
        {},
    ),
    "dual_clip": (GRPO, {"normalize": "token_mean"}, {}),
    "cispo": (GRPO, {"normalize": "token_mean"}, {}),
}
"""Overlay -> objective, settings, and the parts that are not HERO's."""


def objective_of(*overlays: str) -> Any:
    files = [CONFIGS / "quickstart.yaml", *(CONFIGS / "baselines" / f"{overlay}.yaml" for overlay in overlays)]
    return instantiate([word for file in files for word in ("--config", str(file))]).model.objective


@pytest.mark.parametrize("method", METHODS)
def test_an_overlay_sets_what_its_method_names_and_keeps_the_rest_of_hero(method: str) -> None:
    expected, settings, changed = METHODS[method]
    objective, kept = objective_of(method), objective_of()
    assert type(objective) is expected
    assert {key: getattr(objective, key) for key in settings} == settings
    if expected is not GRPO:
        for part in ("reflector", "teacher", "weights", "divergence"):
            assert type(getattr(objective, part)) is changed.get(part, type(getattr(kept, part)))
        assert objective.normalize == settings.get("normalize", kept.normalize)
    if expected in (Credit, Mixed):
        assert type(objective.policy_gradient) is GRPO


def test_what_the_tables_cannot_say() -> None:
    assert objective_of("sdar").divergence.sharpness == 5.0
    assert objective_of("smrc_sd").teacher.state_matched
    assert objective_of("smrc_sd").correction.cap is None
    assert objective_of("dual_clip").surrogate.dual_clip == 3.0
    cispo = objective_of("cispo").surrogate
    assert (cispo.surrogate, cispo.epsilon, cispo.epsilon_high) == ("cispo", 1.0, 4.0)


def test_the_gate_alone_is_not_sdar() -> None:
    gated = objective_of("gated_sigmoid")
    assert type(gated) is SelfDistillation
    assert isinstance(gated.gate, SigmoidGap)
    assert isinstance(gated.divergence, JensenShannon)
