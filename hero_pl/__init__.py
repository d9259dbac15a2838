"""Train multi-turn LLM agents by hindsight self-distillation.

The main classes can be imported from here. Each is imported from its module at its first use, so that the import of the
package is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hero_pl.chat.actions import PlainText, ReAct, ToolCall
    from hero_pl.datamodule import RolloutDataModule
    from hero_pl.errors import HeroError
    from hero_pl.losses.jensen_shannon import JensenShannon
    from hero_pl.module import HeroModule
    from hero_pl.objectives.mixed import Mixed
    from hero_pl.objectives.policy_gradient import GRPO
    from hero_pl.objectives.self_distillation import SelfDistillation
    from hero_pl.objectives.sft import SFT
    from hero_pl.policy.huggingface import HuggingFacePolicy
    from hero_pl.policy.loading import Lora
    from hero_pl.reflection.self_reflector import SelfReflector
    from hero_pl.rollout.limits import Limits
    from hero_pl.teacher.hindsight import HindsightTeacher
    from hero_pl.teacher.weights import InitialWeights

__version__ = "0.1.0"
__all__ = [
    "GRPO",
    "SFT",
    "HeroError",
    "HeroModule",
    "HindsightTeacher",
    "HuggingFacePolicy",
    "InitialWeights",
    "JensenShannon",
    "Limits",
    "Lora",
    "Mixed",
    "PlainText",
    "ReAct",
    "RolloutDataModule",
    "SelfDistillation",
    "SelfReflector",
    "ToolCall",
]

_HOMES = {
    "GRPO": "objectives.policy_gradient",
    "SFT": "objectives.sft",
    "HeroError": "errors",
    "HeroModule": "module",
    "HindsightTeacher": "teacher.hindsight",
    "HuggingFacePolicy": "policy.huggingface",
    "InitialWeights": "teacher.weights",
    "JensenShannon": "losses.jensen_shannon",
    "Limits": "rollout.limits",
    "Lora": "policy.loading",
    "Mixed": "objectives.mixed",
    "PlainText": "chat.actions",
    "ReAct": "chat.actions",
    "RolloutDataModule": "datamodule",
    "SelfDistillation": "objectives.self_distillation",
    "SelfReflector": "reflection.self_reflector",
    "ToolCall": "chat.actions",
}
"""Name -> the module that defines it; a type checker reads the imports above."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
