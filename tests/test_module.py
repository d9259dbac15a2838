"""Training with the real module: steps, budget, metrics, and resuming with bitwise equal results."""

import csv
import random

import gymnasium
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from hero_envs.spaces import UnicodeText
from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.errors import ConfigError
from hero_pl.losses.gates import Contrastive
from hero_pl.losses.importance import NoCorrection
from hero_pl.losses.sampled_token import SampledToken
from hero_pl.module import HeroModule
from hero_pl.objectives.mixed import Credit, Mixed
from hero_pl.objectives.policy_gradient import GRPO, PolicyGradient
from hero_pl.objectives.schedules import Schedule
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.objectives.sft import SFT
from hero_pl.pocket.shop.demonstrations import ShopDemonstrations
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.controls import ShuffledReflector
from hero_pl.reflection.none import NoReflector
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.teacher.full_demo import FullDemoTeacher
from hero_pl.teacher.hindsight import FeedbackOnlyTeacher, HindsightTeacher
from hero_pl.teacher.weights import EMAWeights, InitialWeights, LiveWeights, PeriodicWeights
from hero_pl.types import Reflection


class Seen(Callback):
    """Stores the logged metrics and the records of each step."""

    def __init__(self):
        self.metrics, self.records, self.kept = [], [], []

    def on_train_batch_end(self, trainer, module, *args):
        self.kept.append(module.last_metrics)
        self.metrics.append({key: float(value) for key, value in trainer.callback_metrics.items()})
        self.records.append(module.last_records)


class Silent(Reflector):
    """Gives no usable diagnosis."""

    def reflect(self, trajectories, policy):
        return [Reflection((None,) * len(trajectory.turns), "rejected") for trajectory in trajectories]


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(left, right):
    """Whether nested containers are equal bit for bit."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


# -- a run -----------------------------------------------------------------------------------------------------------


def test_three_steps_of_hero_change_the_weights_and_log_what_happened(tiny_module, tiny_data, fit, tmp_path):
    module, data, seen = tiny_module(), tiny_data(), Seen()
    module.policy.load()
    before = weights_of(module)
    trainer = fit(module, data, 3, callbacks=[seen], logger=CSVLogger(tmp_path))

    assert trainer.global_step == 3
    assert module.policy.version == 3
    assert data.steps == 3
    assert not same(before, weights_of(module))
    with open(f"{trainer.log_dir}/metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for name in ("train/loss", "train/grad_norm", "train/tokens", "rollout/success", "hero/hinted_turns"):
        assert all(float(row[name]) >= 0.0 for row in rows), name
    played = [sum(len(record.trajectory.turns) for record in records) for records in seen.records]
    assert [float(row["train/turns"]) for row in rows] == [sum(played[: i + 1]) for i in range(3)]
    assert module.turns == sum(played)


def test_each_record_has_one_loss_and_two_probabilities_per_action_token_of_a_hinted_turn(tiny_module, tiny_data, fit):
    module = tiny_module()
    fit(module, tiny_data(), 1)
    for record in module.last_records:
        columns = (record.token_loss, record.token_student, record.token_teacher)
        for turn, *values in zip(record.trajectory.turns, *columns, strict=True):
            assert [len(column) for column in values] == [len(turn.action_ids)] * 3
        for diagnosis, hint in zip(record.reflection.diagnoses, record.hints, strict=True):
            assert diagnosis.text in hint.text


def test_training_stops_at_the_first_step_that_reaches_the_turn_budget(tiny_module, tiny_data, fit):
    module, seen = tiny_module(), Seen()
    fit(module, tiny_data(), 50, callbacks=[TurnBudget(10), seen])
    turns = [row["train/turns"] for row in seen.metrics]
    assert turns[-1] >= 10 > turns[-2]


def test_the_first_step_samples_with_the_weights_it_updates(tiny_module, tiny_data, fit):
    module, seen = tiny_module(), Seen()
    fit(module, tiny_data(), 3, callbacks=[seen])
    assert [records[0].trajectory.policy_version for records in seen.records] == [0, 1, 2]


# -- the teacher's weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [InitialWeights, lambda: EMAWeights(0.0), PeriodicWeights])
def test_bug_22_the_teacher_is_neither_optimized_nor_in_the_gradient_norm(weights, tiny_module, tiny_data, fit):
    module = tiny_module(SelfDistillation(reflector=ShopRules(), weights=weights()), weight_decay=0.5, clip=1e-3)
    module.policy.load()
    before = {name: value.clone() for name, value in module.policy.network.model.state_dict().items()}
    seen = Seen()
    trainer = fit(module, tiny_data(), 2, callbacks=[seen])
    (teacher,) = module.policy.network.copies.values()
    assert same(dict(teacher.state_dict()), before)  # with weight decay, being optimized would shrink it
    assert not same(dict(module.policy.network.model.state_dict()), before)
    optimized = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    trained = [p for p in module.policy.network.model.parameters() if p.requires_grad]
    assert [id(p) for p in optimized] == [id(p) for p in trained]
    assert not {id(p) for p in optimized} & {id(p) for p in teacher.parameters()}
    # the norm that clipping saw is that of the student alone: after clipping to 1e-3 its gradients have that norm
    norm = torch.stack([p.grad.norm() for p in trained if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)
    assert all(p.grad is None for p in teacher.parameters())
    assert len(list(module.parameters())) == len(trained)


# -- who learns from failure -----------------------------------------------------------------------------------------


def test_hero_has_a_gradient_where_every_episode_failed_and_grpo_has_exactly_none(tiny_module, tiny_data, fit):
    results = {}
    for objective in (SelfDistillation(reflector=ShopRules()), GRPO()):
        module, seen = tiny_module(objective), Seen()
        module.policy.load()
        before = weights_of(module)
        fit(module, tiny_data(tasks_per_step=1, group_size=2), 1, callbacks=[seen])
        assert all(record.trajectory.reward == 0.0 for record in seen.records[0])
        results[type(objective).__name__] = (seen.metrics[0]["train/grad_norm"], same(before, weights_of(module)))
    assert results["SelfDistillation"][0] > 0.0
    assert not results["SelfDistillation"][1]
    assert results["GRPO"] == (0.0, True)


def test_a_step_without_any_hint_is_counted_and_leaves_weights_and_schedule_alone(tiny_module, tiny_data, fit):
    module, seen = tiny_module(SelfDistillation(reflector=Silent())), Seen()
    module.policy.load()
    before = weights_of(module)
    fit(module, tiny_data(), 50, callbacks=[seen, TurnBudget(10)])
    assert [row["train/skipped_steps"] for row in seen.metrics] == [1.0] * len(seen.metrics)
    assert same(before, weights_of(module))
    assert module.policy.version == 0
    assert module.turns >= 10


def test_a_cpu_takes_small_micro_batches_unless_told_otherwise(tiny_module):
    assert tiny_module().micro_batch_tokens == 512
    assert tiny_module(tokens_per_micro_batch=7000).micro_batch_tokens == 7000


@pytest.mark.parametrize("tokens", [1, 200, 100_000])
def test_the_size_of_micro_batches_does_not_change_the_update(tiny_module, tiny_data, fit, tokens):
    results, norms = [], []
    for size in (tokens, 5_000):
        module, seen = tiny_module(tokens_per_micro_batch=size), Seen()
        fit(module, tiny_data(tasks_per_step=4), 1, callbacks=[seen])
        results.append(torch.cat([p.detach().flatten() for p in module.policy.parameters()]))
        norms.append((seen.metrics[0]["train/grad_norm"], seen.metrics[0]["train/loss"]))
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=2e-5)


# -- several updates per rollout -------------------------------------------------------------------------------------


@pytest.mark.parametrize("updates", [1, 3])
def test_bug_34_old_log_probabilities_stay_those_of_the_rollout(updates, tiny_module, tiny_data, fit):
    module, seen = tiny_module(PolicyGradient("none"), updates_per_batch=updates), Seen()
    trained = module.objective.advantages
    module.objective.advantages = lambda rewards, groups, reduce_sum: (
        trained(rewards, groups) + 1.0
    )  # no episode succeeds here
    fit(module, tiny_data(), updates, callbacks=[seen])
    away = seen.metrics[0]["policy_gradient/ratio_max"] - 1.0  # of the last update on the batch
    assert (away < 1e-4) == (updates == 1)
    assert module.policy.version == updates
    assert module.turns == seen.metrics[0]["train/turns"]  # the episodes count once


def test_rollouts_that_lag_behind_are_refused_unless_they_are_corrected_or_accepted(tiny_module, tiny_data, fit):
    def run(objective, **kwargs):
        module = tiny_module(objective, updates_per_batch=2, **kwargs)
        fit(module, tiny_data(), 2)
        return module

    with pytest.raises(ConfigError, match=r"updates_per_batch=2.*max_staleness is 0"):
        run(SelfDistillation(reflector=ShopRules()))
    assert run(SelfDistillation(reflector=ShopRules()), max_staleness=1).policy.version == 2
    assert run(SelfDistillation(reflector=ShopRules(), correction=NoCorrection())).policy.version == 2
    assert run(SelfDistillation(reflector=ShopRules(), divergence=SampledToken())).policy.version == 2


class OldEpisodes(Callback):
    """Makes the weights two steps older than what sampled the batch."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        module.policy.version += 2


@pytest.mark.parametrize("accepted", [1, 2])
def test_an_episode_of_a_policy_that_is_too_old_is_refused(accepted, tiny_module, tiny_data, fit):
    module, seen = tiny_module(max_staleness=accepted), Seen()
    if accepted == 1:
        with pytest.raises(ConfigError, match="policy_version"):
            fit(module, tiny_data(), 1, callbacks=[OldEpisodes()])
    else:
        fit(module, tiny_data(), 1, callbacks=[OldEpisodes(), seen])
        assert seen.metrics[0]["train/staleness"] == 2.0


# -- resuming --------------------------------------------------------------------------------------------------------


def objectives():
    """Those that ``tests/faults/test_resume.py`` does not resume."""
    shuffled = {
        mode: lambda mode=mode: ShuffledReflector(ShopRules(), mode=mode) for mode in ("batch", "random_tokens")
    }
    return {
        "live": lambda: SelfDistillation(reflector=ShopRules(), weights=LiveWeights()),
        "periodic": lambda: SelfDistillation(reflector=ShopRules(), weights=PeriodicWeights(3)),
        "shuffled": lambda: SelfDistillation(reflector=shuffled["batch"]()),
        "random words": lambda: SelfDistillation(reflector=shuffled["random_tokens"](), weights=EMAWeights(0.3)),
        "frozen reflector": lambda: SelfDistillation(
            SelfReflector("initial", "continue", tokens_per_turn=4),
            HindsightTeacher(on_invalid="env_feedback"),
            InitialWeights(),
        ),
        "reinforce": lambda: PolicyGradient(beta_kl=0.1),
        "mixed": lambda: Mixed(PolicyGradient("running"), 0.7, reflector=ShopRules()),
        "teacher let go": lambda: Mixed(PolicyGradient(), Schedule(0.7, 0.0, "cosine", steps=3), reflector=ShopRules()),
        "credit": lambda: Credit("bayes_turn", PolicyGradient("running"), reflector=ShopRules()),
        "demonstrations": lambda: SelfDistillation(
            reflector=NoReflector(), teacher=FullDemoTeacher("buffer", success_threshold=0.0)
        ),
        "contrastive": lambda: SelfDistillation(reflector=ShopRules(), gate=Contrastive()),
        "warm-up": SFT,
    }


def whole_state(module, data, trainer):
    return {
        "weights": module.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict()["last_epoch"],
        "copies": module.policy.copies_state(),
        "objective": module.objective.state_dict(),
        "turns": (module.turns, module.policy.version, data.steps, trainer.global_step),
        "episodes": [record.trajectory for record in module.last_records],
    }


@pytest.mark.parametrize("kind", objectives())
def test_bug_21_a_run_resumed_at_any_step_equals_the_whole_run_bit_for_bit(kind, tiny_module, tiny_data, fit, tmp_path):
    def run(steps, ckpt_path=None, callbacks=()):
        module = tiny_module(objectives()[kind](), schedule="linear", total_steps=6)
        labels = ShopDemonstrations() if kind == "warm-up" else None
        data = tiny_data(tasks_per_step=3, demonstrations=labels)
        torch.manual_seed(0 if ckpt_path is None else 99)  # nothing may hang on the global generators
        random.seed(0 if ckpt_path is None else 99)
        np.random.seed(0 if ckpt_path is None else 99)
        more = {"limit_train_batches": 2, "enable_checkpointing": bool(callbacks), "callbacks": [*callbacks]}
        trainer = fit(module, data, steps, ckpt_path, **more)
        return whole_state(module, data, trainer)

    whole = run(5, callbacks=[ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)])
    for at in range(1, 5):  # of two steps per epoch: within an epoch and between two
        resumed = run(5, tmp_path / f"step={at}.ckpt")
        for part in whole:
            assert same(whole[part], resumed[part]), (at, part)


def test_a_checkpoint_of_another_program_is_refused(tiny_module, tiny_data, fit, tmp_path):
    module = tiny_module()
    trainer = fit(module, tiny_data(), 1)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    state = AtomicCheckpointIO().load_checkpoint(tmp_path / "run.ckpt")
    del state["hero"]
    AtomicCheckpointIO().save_checkpoint(state, tmp_path / "foreign.ckpt")
    with pytest.raises(ConfigError, match="not written by hero_pl fit"):
        fit(tiny_module(), tiny_data(), 2, tmp_path / "foreign.ckpt")


def test_a_checkpoint_of_another_objective_is_refused(tiny_module, tiny_data, fit, tmp_path):
    fit(tiny_module(PolicyGradient()), tiny_data(), 1).save_checkpoint(tmp_path / "run.ckpt")
    with pytest.raises(ConfigError, match="written with the objective PolicyGradient, the configuration has SelfDist"):
        fit(tiny_module(), tiny_data(), 2, tmp_path / "run.ckpt")


# -- refused ---------------------------------------------------------------------------------------------------------


def test_training_all_weights_in_low_precision_causes_a_warning(tiny_policy, tiny_data, fit):
    module = HeroModule(tiny_policy(dtype="bfloat16"), SelfDistillation(reflector=ShopRules()))
    with pytest.warns(UserWarning, match="too coarse for the optimizer"):
        fit(module, tiny_data(), 1)


def test_a_group_of_one_with_grpo_is_refused_before_the_weights_are_made(tiny_module, tiny_data, fit):
    module = tiny_module(GRPO())
    with pytest.raises(ConfigError, match="group_size"):
        fit(module, tiny_data(group_size=1), 1)
    assert module.policy.network is None


@pytest.mark.parametrize("teacher", [HindsightTeacher(), FeedbackOnlyTeacher(mask_like_hero=True)])
def test_a_teacher_of_diagnoses_without_a_reflector_is_refused(teacher, tiny_module, tiny_data, fit):
    module = tiny_module(SelfDistillation(NoReflector(), teacher))
    with pytest.raises(ConfigError, match="FeedbackOnlyTeacher"):
        fit(module, tiny_data(), 1)
    assert module.policy.network is None
    SelfDistillation(NoReflector(), FeedbackOnlyTeacher()).check(1)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"lr": 0.0}, "lr"),
        ({"clip": -1.0}, "clip"),
        ({"tokens_per_micro_batch": 0}, "tokens_per_micro_batch"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"schedule": "linear"}, "total_steps"),
        ({"updates_per_batch": 0}, "updates_per_batch"),
        ({"max_staleness": -1}, "max_staleness"),
        ({"max_idle_batches": -1}, "max_idle_batches"),
    ],
)
def test_a_wrong_number_is_refused_by_name(tiny_policy, wrong, named):
    with pytest.raises(ConfigError, match=named):
        HeroModule(tiny_policy(), SelfDistillation(), **wrong)


def test_the_learning_rate_warms_up_and_then_falls_to_zero(tiny_policy):
    module = HeroModule(tiny_policy(), SelfDistillation(), schedule="linear", warmup_steps=2, total_steps=8)
    assert [module.optimization.rate(step) for step in (0, 1, 4, 8)] == [0.5, 7 / 8, 0.5, 0.0]


class BrokenFor(gymnasium.Env):
    """Raises at the first action of task ``b``; task ``a`` is over after one action."""

    observation_space = action_space = UnicodeText()
    task_ids = ("a", "b")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task = options["task"]
        return f"task {self.task}", {"system_prompt": "", "tools": [], "role": "user"}

    def step(self, action):
        if self.task == "b":
            raise RuntimeError("the user simulator is gone")
        return "over", 0.0, True, False, {"role": "user"}


def test_an_episode_that_the_environment_broke_is_counted_and_teaches_nothing(tiny_module, tiny_data, fit):
    gymnasium.register("BrokenForB-v0", BrokenFor)
    try:
        module, seen = tiny_module(SFT()), Seen()
        fit(module, tiny_data(env="BrokenForB-v0"), 1, callbacks=[seen])
    finally:
        gymnasium.registry.pop("BrokenForB-v0")
    assert seen.metrics[0]["train/broken_episodes"] == 1.0
    assert seen.metrics[0]["rollout/env_error"] == 0.5
    assert seen.metrics[0]["rollout/turns_per_episode"] == 1.0  # of the other one
    by_task = {record.trajectory.task_id: record for record in seen.records[0]}
    assert by_task["a"].token_loss[0]
    assert by_task["b"].trajectory.turns
    assert by_task["b"].token_loss is None
    assert seen.metrics[0]["train/tokens"] == len(by_task["a"].trajectory.turns[0].action_ids)
