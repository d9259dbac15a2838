"""Batches from which nothing is learned are reported at once, and end the run when there are too many in a row."""

import csv
import math
import warnings
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.callbacks.run_checkpoint import RunCheckpoint
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.errors import HeroError, PolicyError
from hero_pl.objectives.policy_gradient import PolicyGradient
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.objectives.sft import SFT
from hero_pl.pocket.shop.expert import ShopExpert
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.reflection.base import Reflector
from hero_pl.rollout.collect import Limits
from hero_pl.teacher.full_demo import FullDemoTeacher
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


def test_a_batch_with_nothing_to_learn_says_at_once_why_in_counts(tiny_module, tiny_data, fit):
    module, data = tiny_module(SelfDistillation(reflector=Silent())), tiny_data(limits=Limits(max_turns=1))
    with pytest.warns(
        UserWarning, match=r"no turn of it is in the loss\. Its counts: .*hero/unhinted_turns 2"
    ) as warned:
        fit(module, data, 3, limit_train_batches=2, max_epochs=1)
    assert sum("Nothing was learned" in str(warning.message) for warning in warned) == 1
    assert module.idle.in_a_row == 2


@pytest.mark.parametrize("budget", [0, 1000])
def test_bug_55_a_run_in_which_nothing_is_learned_ends_with_an_error(budget, tiny_module, tiny_data, fit):
    module = tiny_module(SelfDistillation(reflector=Silent()), max_idle_batches=3)
    seen, data = Seen(), tiny_data(limits=Limits(max_turns=1))
    with (
        pytest.warns(UserWarning, match="Nothing was learned"),
        pytest.raises(HeroError, match=r"in 3 batches in a row.*hero/unhinted_turns 2.*max_idle_batches: 0"),
    ):
        fit(module, data, 3, callbacks=[TurnBudget(budget), seen], limit_train_batches=6, max_epochs=1)
    assert (data.steps, len(seen.records), module.policy.version) == (3, 3, 0)  # the last batch is written, too


@pytest.mark.filterwarnings("ignore:Nothing was learned from the batch")
def test_bug_752_a_short_run_without_any_step_ends_with_an_error_after_its_files_are_written(
    tiny_module, tiny_data, fit, monkeypatch
):
    class Written(Callback):
        ended = False

        def on_train_end(self, *args):
            self.ended = True

    module, written = tiny_module(SelfDistillation(reflector=Silent())), Written()
    fit(module, tiny_data(), 3, limit_train_batches=2, max_epochs=1)  # too few to be sure
    monkeypatch.setattr("hero_pl.step.FEW_BATCHES", 2)
    module = tiny_module(SelfDistillation(reflector=Silent()))
    with pytest.raises(HeroError, match=r"No optimizer step in the whole run of 2 batches.*hero/unhinted_turns.*: 0\."):
        fit(module, tiny_data(), 3, callbacks=[written], limit_train_batches=2, max_epochs=1)
    assert written.ended
    fit(
        tiny_module(SelfDistillation(reflector=Silent()), max_idle_batches=0),
        tiny_data(),
        3,
        limit_train_batches=2,
        max_epochs=1,
    )
    fit(tiny_module(SelfDistillation(reflector=Silent())), tiny_data(), 3, limit_train_batches=0, max_epochs=1)


class Rewards(PolicyGradient):
    """Every reward is the same, and leaves its episode out."""

    def __init__(self):
        super().__init__("none", zero_variance="mask")

    def shape(self, rewards, trajectories):
        return rewards * 0.0


@pytest.mark.filterwarnings("ignore:Nothing was learned from the batch")
def test_bug_752_rewards_without_a_signal_are_a_result_of_methods_that_learn_from_nothing_else(
    tiny_module, tiny_data, fit, monkeypatch
):
    monkeypatch.setattr("hero_pl.step.FEW_BATCHES", 2)
    module = tiny_module(Rewards())
    with pytest.warns(UserWarning, match=r"the whole run of 2 batches.*rollout/masked_episodes"):
        fit(module, tiny_data(), 3, limit_train_batches=2, max_epochs=1)
    module.idle.broken = True  # a gradient that is not finite is nobody's result
    with pytest.raises(HeroError, match="No optimizer step in the whole run"):
        module.idle.check_run(0, module.objective.rewards_alone)


class StopAt(Callback):
    def __init__(self, idle):
        self.idle = idle

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.lightning_module.idle.in_a_row == self.idle


def test_bug_752_what_decides_alone_is_a_property_of_the_objective():
    assert not SelfDistillation().rewards_alone
    assert SelfDistillation(teacher=FullDemoTeacher("buffer")).rewards_alone  # no success, no demonstration
    assert not SelfDistillation(teacher=FullDemoTeacher("oracle", ShopExpert())).rewards_alone
    assert SFT(reward_threshold=1.0).rewards_alone
    assert not SFT(reward_threshold=None).rewards_alone


def test_bug_752_steps_before_a_run_was_resumed_count(tiny_module, tiny_data, fit, tmp_path):
    path = tmp_path / "one.ckpt"
    fit(tiny_module(SelfDistillation(reflector=ShopRules())), tiny_data(), 1).save_checkpoint(path)
    module = tiny_module(SelfDistillation(reflector=Silent()))
    with pytest.warns(UserWarning, match="Nothing was learned from the batch after step 1"):
        fit(module, tiny_data(), 9, path, callbacks=[StopAt(2)])
    assert module.idle.in_a_row == 2


class Preempted(Callback):
    """Ends the run after a number of batches, as a scheduler does."""

    def __init__(self, batches):
        self.batches = batches

    def on_train_batch_start(self, trainer, *args):
        if trainer.datamodule.steps > self.batches:
            raise InterruptedError


@pytest.mark.filterwarnings("ignore:Nothing was learned from the batch")
def test_bug_803_batches_without_a_step_are_saved_and_their_count_goes_on(tiny_module, tiny_data, fit, tmp_path):
    def run(batches, resume=None):
        module, data = tiny_module(SelfDistillation(reflector=Silent()), max_idle_batches=5), tiny_data()
        try:
            fit(module, data, 9, resume, callbacks=[RunCheckpoint(100), Preempted(batches)])
        finally:
            ended.append((module.idle.in_a_row, data.steps))

    ended, path = [], tmp_path / "checkpoints" / "step=0.ckpt"
    with pytest.raises(InterruptedError):
        run(2)
    with pytest.raises(InterruptedError):
        run(4, path)
    state = AtomicCheckpointIO().load_checkpoint(path)
    assert (state["RolloutDataModule"]["steps"], state["hero"]["turns"]) == (4, 4 * 2 * 3)
    with pytest.raises(HeroError, match=r"in 5 batches in a row.*hero/unhinted_turns"):
        run(9, path)
    assert ended == [(2, 3), (4, 5), (5, 5)]  # the batch in flight is played again
    for name in ("idle", "broken_steps"):  # written by an older version
        del state["hero"][name]
    AtomicCheckpointIO().save_checkpoint(state, path)
    with pytest.raises(InterruptedError):
        run(6, path)
    assert ended[-1] == (2, 7)


def test_bug_803_a_long_row_of_batches_without_a_step_is_saved_in_between(tiny_module, tiny_data, fit, tmp_path):
    module = tiny_module(SelfDistillation(reflector=Silent()))
    with pytest.warns(UserWarning, match="Nothing was learned"):
        fit(module, tiny_data(), 9, callbacks=[RunCheckpoint(3), StopAt(4)])
    state = AtomicCheckpointIO().load_checkpoint(tmp_path / "checkpoints" / "step=0.ckpt")
    assert state["RolloutDataModule"]["steps"] == 3


@pytest.mark.filterwarnings("ignore:Nothing was learned from the batch")
def test_bug_803_gradients_that_are_not_finite_are_counted_over_interruptions(tiny_module, tiny_data, fit, tmp_path):
    def run(batches, resume=None):
        module = tiny_module(PolicyGradient("none"), max_broken_steps=3)
        module.objective.advantages = lambda rewards, groups, reduce_sum: rewards * torch.nan
        fit(module, tiny_data(), 9, resume, callbacks=[RunCheckpoint(100), Preempted(batches)])

    with pytest.raises(InterruptedError):
        run(2)
    with pytest.raises(PolicyError, match="not finite in 3 batches in a row"):
        run(3, tmp_path / "checkpoints" / "step=0.ckpt")


class EveryOther(Silent):
    """Gives no usable diagnosis in every other batch."""

    def __init__(self):
        self.batches = 0

    def reflect(self, trajectories, policy):
        self.batches += 1
        return (ShopRules() if self.batches % 2 else super()).reflect(trajectories, policy)


def test_bug_60_an_idle_batch_between_others_ends_nothing_and_logs_no_value_of_the_step_before(
    tiny_module, tiny_data, fit, tmp_path
):
    module, seen = tiny_module(SelfDistillation(reflector=EveryOther()), max_idle_batches=2), Seen()
    with pytest.warns(UserWarning, match="Nothing was learned"):
        trainer = fit(module, tiny_data(), 3, callbacks=[seen], logger=CSVLogger(tmp_path))
    assert [row["train/skipped_steps"] for row in seen.metrics] == [0.0, 1.0, 0.0, 1.0, 0.0]
    with open(f"{trainer.log_dir}/metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name in ("train/loss", "train/grad_norm", "train/tokens", "teacher/divergence", "reflection/diagnosis_chars"):
        assert [row[name] in ("", "nan") for row in rows] == [False, True, False, True, False], name
        assert [name in row for row in (seen.kept[0], seen.kept[1])] == [True, False], name


def test_a_gradient_that_is_not_finite_is_reported_as_the_reason(tiny_module, tiny_data, fit):
    module = tiny_module(PolicyGradient("none"), max_idle_batches=1)
    module.objective.advantages = lambda rewards, groups, reduce_sum: rewards * torch.nan
    with (
        pytest.warns(UserWarning, match="its gradient is not finite"),
        pytest.raises(HeroError, match="in 1 batches in a row"),
    ):
        fit(module, tiny_data(), 1)


class LaterBroken(SelfDistillation):
    """The gradient of every second update of a batch is not finite."""

    def prepare(self, *args):
        self.updates = 0
        return super().prepare(*args)

    def after_step(self, policy):
        self.updates += 1
        super().after_step(policy)

    def loss(self, policy, micro):
        out = super().loss(policy, micro)
        return replace(out, loss=out.loss * torch.nan) if self.updates == 1 else out


def test_bug_747_a_later_update_that_is_skipped_does_not_hide_the_earlier_one(tiny_module, tiny_data, fit):
    module = tiny_module(LaterBroken(reflector=ShopRules()), updates_per_batch=3, max_staleness=2, max_broken_steps=3)
    seen = Seen()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Nothing was learned")
        with pytest.raises(PolicyError, match="not finite in 3 batches in a row"):
            fit(module, tiny_data(), 9, callbacks=[seen])
    assert module.policy.version == 3
    assert len(seen.kept) == 2  # the third one ends the run
    for row in seen.kept:
        assert (row["train/updates"], row["train/skipped_steps"]) == (1.0, 0.0)
        assert math.isfinite(row["train/loss"])
        assert math.isfinite(row["train/grad_norm"])


def test_every_update_of_a_batch_is_counted(tiny_module, tiny_data, fit):
    module, seen = tiny_module(updates_per_batch=3, max_staleness=2), Seen()
    fit(module, tiny_data(), 6, callbacks=[seen])
    assert [(row["train/updates"], row["train/skipped_steps"]) for row in seen.kept] == [(3.0, 0.0)] * 2
    assert module.broken_steps == 0
