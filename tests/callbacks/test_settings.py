"""Settings that changed since a checkpoint are listed; changes to the training data are refused."""

import pytest

from hero_pl.callbacks.settings import compare_settings
from hero_pl.errors import ConfigError

HERO = {"class_path": "SelfDistillation", "init_args": {"loss": "kl"}}
BEFORE = {
    "model": {"lr": 1e-3, "clip": 1.0, "objective": HERO},
    "data": {"tasks_per_step": 8, "limits": {"num_envs": 64, "max_turns": 12}, "seed": None},
    "trainer": {"max_steps": 10, "logger": {"init_args": {"version": 0}}},
    "resume": "never",
}


def with_(section, **changes):
    return {**BEFORE, section: {**BEFORE[section], **changes}}


def test_equal_settings_need_no_word():
    assert compare_settings(BEFORE, {**BEFORE, "resume": "auto", "ckpt_path": "x.ckpt"}, False) == []
    assert compare_settings({}, BEFORE, False) == []  # a checkpoint of the Python API


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (with_("model", lr=1e-6), "model.lr: 0.001 -> 1e-06"),
        (with_("model", clip=None), "model.clip: 1.0 -> absent"),
        (with_("trainer", max_steps=20), "trainer.max_steps: 10 -> 20"),
        ({**BEFORE, "dataset": "b"}, "dataset: absent -> b"),  # not a part of data
        (with_("data", limits={"num_envs": 8, "max_turns": 12}), "data.limits.num_envs: 64 -> 8"),
        (with_("data", limits={"num_envs": 64, "max_turns": 12, "workers": 4}), "data.limits.workers: absent -> 4"),
        (with_("data", env_args={"user": {"spend_cap": 3.0}}), "data.env_args.user.spend_cap: absent -> 3.0"),
        (
            with_(
                "model", objective={**HERO, "init_args": {"loss": "kl", "reflector": {"init_args": {"base_url": "b"}}}}
            ),
            "model.objective.init_args.reflector.init_args.base_url: absent -> b",
        ),
    ],
)
def test_what_can_be_applied_is_listed(now, line):
    assert compare_settings(BEFORE, now, False) == [line]


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (with_("data", tasks_per_step=4), "data.tasks_per_step: 8 -> 4"),
        (with_("data", limits={"num_envs": 64, "max_turns": 3}), "data.limits.max_turns: 12 -> 3"),
        (with_("data", env="Other-v0"), "data.env: absent -> Other-v0"),
        (with_("model", objective={"class_path": "GRPO"}), "model.objective.class_path: SelfDistillation -> GRPO"),
        (with_("data", env_args={"user": {"model": "b"}}), "data.env_args.user.model: absent -> b"),
        (with_("data", env_args={"url": "b"}), "data.env_args.url: absent -> b"),
        ({**BEFORE, "seed_everything": 3}, "seed_everything: absent -> 3"),
    ],
)
def test_what_would_make_another_run_is_refused_unless_it_is_wanted(now, line):
    with pytest.raises(ConfigError, match="change what the run learns from") as refused:
        compare_settings(BEFORE, now, False)
    assert f"  {line}\n" in str(refused.value)
    assert "--resume_changed true" in str(refused.value)
    assert line in compare_settings(BEFORE, now, True)
