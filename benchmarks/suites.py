"""Suites of the turn-budget benchmark: an environment with its configuration, and what its methods need there.

A suite replaces the settings of a method (:mod:`methods`) that do not suit its prompts or its reflector, and leaves out
methods that it does not support. Every cell runs ``hero_pl fit`` with these files.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from methods import BASE, METHODS, OBJECTIVE, OF_WORDINGS, ROOT, method_of

PACKAGED, OWN_CHECKPOINTS = "hero_pl:", "benchmarks/checkpoints/"
"""Beginnings of the names of policies of the package and of this repository."""
CHECKPOINTS = ROOT / "hero_pl" / "pocket" / "checkpoints"


@dataclass(frozen=True)
class Suite:
    """One environment with its base configuration."""

    name: str
    config: str
    says: str
    """One-sentence description."""
    policies: tuple[str, ...]
    rules: str = ""
    """Class of the rule-based reflector; without one the suite has no ``hero_rule``."""
    oracle: str = ""
    """Class of a reflector that knows more than the agent; without one the suite has no ``hero_oracle``."""
    expert: Mapping[str, Any] = field(default_factory=dict)
    """Demonstrations without mistakes; without them the suite has no ``supervised``."""
    on_cpu: bool = True
    """Whether it runs on a CPU; others need an accelerator and the weights of the policy."""
    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    """Learning rates that ``--tune`` tries, the same for every method."""
    methods: tuple[str, ...] = tuple(name for name in METHODS if name not in OF_WORDINGS)
    template: str = ""
    """Wording of every hint, unless the method sets one; default: that of the configuration."""
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Method -> settings of this suite, for methods that its configuration does not contain as it is."""
    tuning_world: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the environment for tuning the learning rate; they differ from those of the test."""
    adapt: bool = True
    """Whether to replace the overlays' settings of prompts and reflectors by those of this suite's configuration."""

    @property
    def values(self) -> dict[str, Any]:
        """The configuration as written in the file."""
        values: dict[str, Any] = yaml.safe_load((ROOT / self.config).read_text(encoding="utf-8"))
        return values


_IN_LINES = {
    f"{OBJECTIVE}.reflector": {
        "class_path": "SelfReflector",
        "init_args": {"weights": "initial", "mode": "continue", "answer": "lines", "constrained": True},
    }
}
"""Self-review in the form that a small model can write."""

_REVIEWS = {"mode": "continue", "tokens_per_turn": 64}
_SECOND = {
    "class_path": "HuggingFacePolicy",
    "init_args": {"pretrained": "models/smollm2-shop-review", "parser": "PlainText", "max_length": 2048},
}

SUITES: dict[str, Suite] = {
    "pocket-webshop": Suite(
        "pocket-webshop",
        "configs/quickstart.yaml",
        "A mechanism check whose answer is built in: the base policy was taught to review its episodes and to obey "
        "hints, and the rule-based reflector is an oracle over visible facts.",
        ("hero_pl:pocket-shop", "benchmarks/checkpoints/pocket-shop-b"),
        rules="ShopRules",
        expert={"class_path": "ShopExpert"},
        rates=(2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3),
        tuning_world={"catalog_seed": 1},
        adapt=False,
    ),
    "pocket-retail": Suite(
        "pocket-retail",
        "configs/pocket_retail.yaml",
        "Templated tasks on a database of the real schema; the outcome is open.",
        ("hero_pl:pocket-retail", "benchmarks/checkpoints/pocket-retail-b"),
        rules="RetailRules",
        expert={"class_path": "RetailDemonstrations", "init_args": {"clean": True}},
        tuning_world={"data_seed": 1},
    ),
    "real-shop": Suite(
        "real-shop",
        "configs/smollm2_shop.yaml",
        "SmolLM2-135M-Instruct in the pocket shop, after a supervised warm-up without hints: competent (24 steps) and "
        "poor (9 steps). Its rule-based reflector is an oracle over visible facts; hint-following was not trained.",
        ("models/smollm2-shop", "models/smollm2-shop-poor"),
        rules="ShopRules",
        expert={"class_path": "ShopExpert"},
        rates=(4e-4, 8e-4, 1.6e-3),
        methods=tuple(name for name in METHODS if name != "hero_live"),
        tuning_world={"catalog_seed": 1},
        template="reply_exactly",
        own={
            "hero_self": _IN_LINES,
            "hero_reviews": {
                f"{OBJECTIVE}.reflector": {
                    "class_path": "SelfReflector",
                    "init_args": {"weights": "initial", **_REVIEWS},
                }
            },
            "hero_second": {
                f"{OBJECTIVE}.reflector": {
                    "class_path": "PolicyReflector",
                    "init_args": {"policy": _SECOND, **_REVIEWS},
                }
            },
        },
    ),
    "real-webshop": Suite(
        "real-webshop",
        "configs/smollm2_webshop.yaml",
        "SmolLM2-135M-Instruct in the generated WebShop with the pages of the benchmark, after a supervised warm-up "
        "without hints. Its rule-based reflector reads what the agent saw.",
        ("models/smollm2-webshop",),
        rules="WebShopRules",
        expert={"class_path": "WebShopDemonstrations"},
        rates=(4e-4, 8e-4, 1.6e-3),
        methods=(
            *(BASE, "feedback_only", "grpo", "reinforce", "hero_rule", "hero_auto", "shuffled", "supervised"),
            *("hero_sharp", "feedback_only_sharp", "shuffled_sharp"),
        ),
        tuning_world={"catalog_seed": 1},
        template="reply_exactly",
    ),
    "real-textworld": Suite(
        "real-textworld",
        "configs/smollm2_textworld.yaml",
        "SmolLM2-135M-Instruct in generated TextWorld games (one room, two commands in at most five turns), after a "
        "supervised warm-up without hints: competent (24 steps) and poor (6 steps). Its rule-based "
        "reflector reads what the agent saw; the oracle reads the solution that the game knows.",
        ("models/smollm2-textworld", "models/smollm2-textworld-poor"),
        rules="TextWorldRules",
        oracle="TextWorldOracle",
        expert={"class_path": "TextWorldDemonstrations"},
        rates=(2e-4, 4e-4, 8e-4),
        methods=(
            *(BASE, "feedback_only", "grpo", "hero_rule", "hero_oracle", "shuffled", "supervised"),
            *("hero_sharp", "feedback_only_sharp", "shuffled_sharp"),
        ),
        tuning_world={"world": 1},
        template="reply_exactly",
        own={"hero_self": _IN_LINES},
    ),
    "webshop": Suite(
        "webshop",
        "configs/webshop_qwen3_4b.yaml",
        "WebShop with a pretrained model.",
        ("Qwen/Qwen3-4B-Instruct-2507",),
        on_cpu=False,
        rates=(5e-6, 1e-5, 2e-5),
    ),
    "retail": Suite(
        "retail",
        "configs/retail_qwen3_4b.yaml",
        "TauBench retail with a pretrained model.",
        ("Qwen/Qwen3-4B-Instruct-2507",),
        on_cpu=False,
        rates=(5e-6, 1e-5, 2e-5),
    ),
}

for _name in ("webshop", "retail"):
    SUITES[f"{_name}-30b"] = replace(
        SUITES[_name],
        name=f"{_name}-30b",
        config=f"configs/{_name}_qwen3_30b_a3b.yaml",
        policies=("Qwen/Qwen3-30B-A3B-Instruct-2507",),
    )


def base_policies(suite: Suite) -> list[str]:
    """The suite's base policies; policies of the repository only if their folder exists."""
    here = [name for name in suite.policies if policy_folder(name).is_dir()]
    return here or list(suite.policies)


def policy_folder(name: str) -> Path:
    """Folder of a base policy: of the package, or a path from the working directory, else from the repository."""
    if name.startswith(PACKAGED):
        return CHECKPOINTS / name.removeprefix(PACKAGED)
    here = Path(name).is_dir() and not name.startswith(OWN_CHECKPOINTS)
    return Path(name) if here else ROOT / name


def located(settings: Any) -> Any:
    """Settings in which every ``pretrained`` is a folder that a run finds: as it is given, or by its full path."""
    if isinstance(settings, dict):
        return {
            key: _located(value) if key == "pretrained" and isinstance(value, str) else located(value)
            for key, value in settings.items()
        }
    return [located(one) for one in settings] if isinstance(settings, list) else settings


def _located(name: str) -> str:
    folder = policy_folder(name)
    as_it_is = name.startswith(PACKAGED) or folder == Path(name) or not folder.is_dir()
    return name if as_it_is and not name.startswith(OWN_CHECKPOINTS) else str(folder)


def policy_fault(name: str) -> str:
    """What is wrong with the name of a base policy; empty if nothing is."""
    folder = policy_folder(name)
    if name.startswith(PACKAGED) and not folder.is_dir():
        known = [f"{PACKAGED}{path.name}" for path in sorted(CHECKPOINTS.iterdir()) if path.is_dir()]
        known += sorted(f"{OWN_CHECKPOINTS}{path.name}" for path in (ROOT / OWN_CHECKPOINTS).glob("*/"))
        return f"the package has no such policy; expected one of {', '.join(known)}, a folder, or a name of the hub"
    if folder.is_dir() and not any(folder.glob("*.*")):
        return f"{folder} has no files, so the weights cannot be told apart; give the folder of an exported policy"
    return ""


def available(suite: Suite, endpoint: Sequence[str] | None = None) -> list[str]:
    """Methods that the suite can run, in the order of the table."""
    return [name for name in suite.methods if not why_not(suite, name, endpoint)]


def why_not(suite: Suite, name: str, endpoint: Sequence[str] | None = None) -> str:
    """The reason why a suite cannot run a method, or an overlay by its file name; empty if it can."""
    try:
        method = method_of(name)
    except KeyError:
        return f"unknown method; expected one of {', '.join(METHODS)}, or the file name of an overlay in configs"
    if name in METHODS and name not in suite.methods:
        return f"the suite {suite.name} does not include it"
    if method.follows_rules and not suite.rules:
        return f"the suite {suite.name} has no rule-based reflector"
    if method.oracle and not suite.oracle:
        return f"the suite {suite.name} has no oracle"
    if (method.taught or method.shows_expert) and not suite.expert:
        return f"the suite {suite.name} has no expert that plays without mistakes"
    if name == "hero_external" and not endpoint:
        return "it needs an endpoint: --endpoint URL MODEL"
    missing = [path for path in method.overlays if not (ROOT / path).is_file()]
    return f"missing: {', '.join(missing)}" if missing else ""


def settings(suite: Suite, name: str, endpoint: Sequence[str] | None = None, stage: str = "test") -> dict[str, Any]:
    """Settings of a method in addition to its overlays; the stage ``validate`` uses the tuning environment."""
    method = method_of(name)
    found = {**suite.own.get(name, {}), **method.settings}
    if stage == "validate" and suite.tuning_world:
        found["data.env_args"] = {**suite.values["data"].get("env_args", {}), **suite.tuning_world}
    if name == "hero_external" and endpoint:
        found[f"{OBJECTIVE}.reflector"] = {
            "class_path": "ChatReflector",
            "init_args": {"base_url": endpoint[0], "model": endpoint[1]},
        }
    if not suite.adapt:
        return found
    base = suite.values
    objective = base["model"]["objective"].get("init_args", {})
    if method.shows == "demonstration":
        found[f"{OBJECTIVE}.teacher.init_args.template"] = None  # the default, for models that understand English
    elif method.shows or method.wraps or (suite.template and name != BASE and method.hinted):
        template = suite.template or (objective.get("teacher") or {}).get("init_args", {}).get("template")
        # `auto` chooses by corrected actions; an arm without them gets the wording that suits most models
        found.setdefault(f"{OBJECTIVE}.teacher.init_args.template", "short" if template == "auto" else template)
    if method.taught:
        found["data.demonstrations"] = dict(suite.expert)
    if method.shows_expert and suite.expert:
        found[f"{OBJECTIVE}.teacher.init_args.expert"] = dict(suite.expert)
    if reviewer := suite.oracle if method.oracle else suite.rules if method.follows_rules else "":
        found[f"{OBJECTIVE}.reflector"] = {"class_path": reviewer}
    elif method.wraps:
        inner = {"class_path": suite.rules} if suite.rules else objective["reflector"]
        arguments = {"inner": inner, "mode": method.wraps, "seed": 0}
        found[f"{OBJECTIVE}.reflector"] = {"class_path": "ShuffledReflector", "init_args": arguments}
    if method.grouped:
        found["data.tasks_per_step"] = max(1, base["data"]["tasks_per_step"] // 8)
    return found


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Convert dotted keys to the nested mapping of a configuration file; later keys change earlier ones."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = copy.deepcopy(value)  # a later key below it must not change a setting of all cells
    return tree
