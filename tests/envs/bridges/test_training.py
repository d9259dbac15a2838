"""Every bridge is trained for two steps by a tiny policy: its text passes the whole way of a rollout."""

import pytest

from hero_pl.chat.actions import PlainText
from hero_pl.module import HeroModule
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.textworld.reflector import TextWorldRules
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.reflection.none import NoReflector
from hero_pl.rollout.collect import Limits
from hero_pl.teacher.hindsight import FeedbackOnlyTeacher

BRIDGES = [
    ("hero_pl/TextWorld-v0", "textworld", {"level": "tiny", "tasks": 2}),
    ("hero_pl/TextArena-v0", "textarena", {"tasks": 2}),
    ("hero_pl/ReasoningGym-v0", "reasoning_gym", {"tasks": 2}),
]


@pytest.mark.bridge
@pytest.mark.parametrize(("env", "package", "arguments"), BRIDGES, ids=[package for _, package, _ in BRIDGES])
def test_a_bridge_is_trained_for_two_steps(env, package, arguments, tiny_config, tiny_data, fit, tmp_path, monkeypatch):
    pytest.importorskip(package, reason=f"needs the extra of {package}")
    monkeypatch.setenv("HERO_TEXTWORLD_GAMES", str(tmp_path))
    if package == "textworld":
        objective = SelfDistillation(reflector=TextWorldRules())
    else:
        objective = SelfDistillation(reflector=NoReflector(), teacher=FeedbackOnlyTeacher())
    long = {**tiny_config, "max_position_embeddings": 8192}  # the tokenizer knows few words
    policy = HuggingFacePolicy(config=long, tokenizer="hero_pl:pocket-shop", parser=PlainText(), max_length=8192)
    module = HeroModule(policy, objective, lr=1e-2, warmup_steps=0)
    trainer = fit(module, tiny_data(env=env, env_args=arguments, limits=Limits(max_turns=2)), steps=2)
    assert trainer.global_step == 2
    assert module.turns >= 4
