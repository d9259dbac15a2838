"""Methods of the turn-budget benchmark: overlays and settings.

A method is a list of overlays from ``configs`` and additional settings. The overlays are written for the pocket shop; a
suite (:mod:`suites`) with other prompts or another reflector replaces those settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

ROOT = Path(__file__).resolve().parent.parent
OBJECTIVE = "model.objective.init_args"
BASE = "base"
"""The untrained policy; it is only evaluated."""


@dataclass(frozen=True)
class Method:
    """Differences of a method from the suite's configuration, which is HERO with the policy as its own reflector."""

    title: str
    overlays: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key of the configuration -> value."""
    wraps: str = ""
    """Mode of the ``ShuffledReflector`` around the suite's reference reflector."""
    shows: Literal["", "hint", "demonstration"] = ""
    """Component with a template, which a suite with other prompts replaces."""
    taught: bool = False
    """Whether it learns from the episodes of the suite's expert."""
    shows_expert: bool = False
    """Whether its teacher shows the episodes of the suite's expert."""
    oracle: bool = False
    """Whether its diagnoses are those of the suite's oracle."""
    grouped: bool = False
    """Whether it plays groups of eight, so an eighth of the tasks per step."""

    @property
    def follows_rules(self) -> bool:
        """Whether its diagnoses are those of the suite's rule-based reflector, as they are."""
        overlays = {"configs/baselines/rule_reflector.yaml", "configs/controls/empty_hint.yaml"}
        return not self.oracle and not overlays.isdisjoint(self.overlays)

    @property
    def hinted(self) -> bool:
        """Whether its objective has a teacher with hints; policy gradients and supervised learning have none."""
        kinds = [_objective(path).get("class_path", "SelfDistillation") for path in self.overlays]
        return all(kind in ("SelfDistillation", "Mixed", "Credit") for kind in kinds)

    @property
    def always_learns(self) -> bool:
        """Whether a run without any optimizer step is a mistake; other methods learn nothing from equal rewards."""
        return self.taught or self.shows_expert or (self.hinted and self.shows != "demonstration")


METHODS: dict[str, Method] = {
    BASE: Method("Base, not trained"),
    "feedback_only": Method("feedback only", ("configs/baselines/feedback_only.yaml",), shows="hint"),
    "reflection_only": Method("reflection only", ("configs/baselines/reflection_only.yaml",), shows="hint"),
    "full_demo": Method(
        "full demonstration", ("configs/baselines/full_demo.yaml",), shows="demonstration", grouped=True
    ),
    "grpo": Method("GRPO, group of 8", ("configs/baselines/grpo.yaml",), grouped=True),
    "reinforce": Method("REINFORCE, group of 1", ("configs/baselines/reinforce.yaml",)),
    "rloo": Method("RLOO, group of 8", ("configs/baselines/rloo.yaml",), grouped=True),
    "hero_self": Method("HERO, its own reflector, frozen"),
    "hero_rule": Method("HERO, rule-based reflector, frozen teacher", ("configs/baselines/rule_reflector.yaml",)),
    "hero_oracle": Method(
        "HERO, oracle that knows the solution", ("configs/baselines/rule_reflector.yaml",), oracle=True
    ),
    "hero_live": Method(
        "HERO, live reflector and teacher",
        ("configs/baselines/live_teacher.yaml",),
        {f"{OBJECTIVE}.reflector.init_args.weights": "live"},
    ),
    "hero_ema": Method("HERO, EMA teacher", ("configs/baselines/ema_teacher.yaml",)),
    "hero_external": Method("HERO, external reflector"),
    "shuffled": Method("shuffled diagnoses", ("configs/controls/shuffled_diagnosis.yaml",), wraps="batch"),
    "shuffled_without_feedback": Method(
        "shuffled diagnoses, no feedback",
        ("configs/controls/shuffled_without_feedback.yaml",),
        wraps="batch",
        shows="hint",
    ),
    "generic": Method("generic diagnoses", ("configs/controls/generic_diagnosis.yaml",), wraps="generic"),
    "empty_hint": Method("empty hints", ("configs/controls/empty_hint.yaml",), shows="hint"),
    "supervised": Method("supervised by an expert, a ceiling", ("configs/baselines/supervised.yaml",), taught=True),
    "hero_auto": Method(
        "HERO, wording chosen by measurement",
        ("configs/baselines/rule_reflector.yaml",),
        {f"{OBJECTIVE}.teacher.init_args.template": "auto"},
    ),
    "hero_full": Method(
        "HERO, the long wording",
        ("configs/baselines/rule_reflector.yaml",),
        {f"{OBJECTIVE}.teacher.init_args.template": "full"},
    ),
    "hero_no_target": Method(
        "HERO, diagnoses without the corrected action",
        ("configs/baselines/rule_reflector.yaml",),
        {f"{OBJECTIVE}.teacher.init_args.include_action_target": "never"},
    ),
    "hero_short": Method(
        "HERO, the short wording",
        ("configs/baselines/rule_reflector.yaml",),
        {f"{OBJECTIVE}.teacher.init_args.template": "short"},
    ),
    "hero_decay": Method(
        "HERO, rule-based reflector, rate falling to 0 in 10 steps",
        ("configs/baselines/rule_reflector.yaml",),
        {"model.schedule": "linear", "model.total_steps": 10},
    ),
    "hero_live_teacher": Method(
        "HERO, rule-based reflector, live teacher",
        ("configs/baselines/rule_reflector.yaml", "configs/baselines/live_teacher.yaml"),
    ),
    "hero_periodic": Method(
        "HERO, teacher copied from the student every 5 steps",
        ("configs/baselines/rule_reflector.yaml",),
        {f"{OBJECTIVE}.weights": {"class_path": "PeriodicWeights", "init_args": {"sync_every": 5}}},
    ),
    "hero_gated": Method(
        "HERO, teacher copied every 3 steps if the reward rose",
        ("configs/baselines/rule_reflector.yaml",),
        {
            f"{OBJECTIVE}.weights": {
                "class_path": "GatedWeights",
                "init_args": {"sync_every": 3, "smoothing": 0.5},
            }
        },
    ),
    "hero_forward_kl": Method(
        "HERO, forward KL",
        ("configs/baselines/rule_reflector.yaml",),
        {f"{OBJECTIVE}.divergence": "ForwardKL"},
    ),
    "hero_sharp": Method(
        "HERO, teacher at temperature 0.5",
        ("configs/baselines/rule_reflector.yaml", "configs/baselines/sharp_teacher.yaml"),
    ),
    "feedback_only_sharp": Method(
        "feedback only, teacher at temperature 0.5",
        ("configs/baselines/feedback_only.yaml", "configs/baselines/sharp_teacher.yaml"),
        shows="hint",
    ),
    "shuffled_sharp": Method(
        "shuffled diagnoses, teacher at temperature 0.5",
        ("configs/controls/shuffled_diagnosis.yaml", "configs/baselines/sharp_teacher.yaml"),
        wraps="batch",
    ),
    "hero_reviews": Method("HERO, its own reviews in JSON, frozen"),
    "hero_second": Method("HERO, reviews of a second policy"),
    "hero_2_updates": Method(
        "HERO, 2 updates per batch",
        ("configs/baselines/rule_reflector.yaml",),
        {"model.updates_per_batch": 2, "model.max_staleness": 1},
    ),
    "hero_4_updates": Method(
        "HERO, 4 updates per batch",
        ("configs/baselines/rule_reflector.yaml",),
        {"model.updates_per_batch": 4, "model.max_staleness": 3},
    ),
    "grpo_4_updates": Method(
        "GRPO, group of 8, 4 updates per batch",
        ("configs/baselines/grpo.yaml",),
        {"model.updates_per_batch": 4},
        grouped=True,
    ),
    "hero_failures": Method(
        "HERO, only turns diagnosed as errors",
        ("configs/baselines/rule_reflector.yaml",),
        {f"{OBJECTIVE}.failures_only": True},
    ),
    "hero_sharp_failures": Method(
        "HERO, teacher at temperature 0.5, only turns diagnosed as errors",
        ("configs/baselines/rule_reflector.yaml", "configs/baselines/sharp_teacher.yaml"),
        {f"{OBJECTIVE}.failures_only": True},
    ),
}
OF_WORDINGS = (
    "hero_auto",
    "hero_full",
    "hero_no_target",
    "hero_short",
    "hero_decay",
    "hero_live_teacher",
    "hero_periodic",
    "hero_gated",
    "hero_forward_kl",
    "hero_sharp",
    "feedback_only_sharp",
    "shuffled_sharp",
    "hero_reviews",
    "hero_second",
    "hero_2_updates",
    "hero_4_updates",
    "grpo_4_updates",
    "hero_failures",
    "hero_sharp_failures",
)
"""Methods for suites with a real model and a rule-based reflector."""


def method_of(name: str) -> Method:
    """Find a method by name, or an overlay of ``configs/baselines`` or ``configs/controls`` by its file name.

    Raises:
        KeyError: There is no method or overlay of this name.
    """
    if name in METHODS:
        return METHODS[name]
    for folder in ("baselines", "controls"):
        path = f"configs/{folder}/{name}.yaml"
        if (ROOT / path).is_file():
            reflector, teacher = (
                _objective(path).get("init_args", {}).get(part, {}) for part in ("reflector", "teacher")
            )
            return Method(
                name,
                (path,),
                wraps=reflector["init_args"]["mode"] if reflector.get("class_path") == "ShuffledReflector" else "",
                shows="demonstration" if teacher.get("class_path") == "FullDemoTeacher" else "",
                shows_expert="expert" in teacher.get("init_args", {}),
                grouped=_values(path).get("data", {}).get("group_size", 1) > 1,
            )
    raise KeyError(name)


def _values(path: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    return values


def _objective(path: str) -> dict[str, Any]:
    """The objective of an overlay, or what it changes of it."""
    found: dict[str, Any] = _values(path).get("model", {}).get("objective", {})
    return found
