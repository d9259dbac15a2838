"""When a run saves itself: in time, at its end, and however it ends."""

import itertools
import json
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.callbacks.interrupts import Interrupted
from hero_pl.callbacks.run_checkpoint import RunCheckpoint
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.errors import ConfigError, EndpointError, HeroError, PolicyError
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.sampler import CachedSampler


def saved(folder):
    return sorted(path.name for path in folder.rglob("*.ckpt"))


def read(path):
    return AtomicCheckpointIO().load_checkpoint(path)


def test_a_run_keeps_its_newest_states_and_its_end(tiny_module, tiny_data, fit, tmp_path):
    fit(tiny_module(), tiny_data(), 7, callbacks=[RunCheckpoint(2)])
    assert saved(tmp_path) == ["last.ckpt", "step=6.ckpt"]
    assert {path.name: read(path)["global_step"] for path in tmp_path.rglob("*.ckpt")} == {
        "step=6.ckpt": 6,
        "last.ckpt": 7,
    }


def test_steps_that_take_long_are_saved_by_the_clock(tiny_module, tiny_data, fit, tmp_path, monkeypatch):
    minutes = itertools.count(step=6)
    monkeypatch.setattr("hero_pl.callbacks.run_checkpoint.time.monotonic", lambda: 60.0 * next(minutes))
    fit(tiny_module(), tiny_data(), 2, callbacks=[RunCheckpoint(100, every_minutes=5.0, keep=9)])
    assert "step=1.ckpt" in saved(tmp_path)


class Break(Callback):
    """Raises at a step."""

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == 3:
            raise RuntimeError("the power went")


def test_an_error_saves_the_last_whole_step_and_names_the_way_on(tiny_module, tiny_data, fit, tmp_path, caplog):
    with caplog.at_level("INFO"), pytest.raises(RuntimeError, match="the power went"):
        fit(tiny_module(), tiny_data(), 5, callbacks=[RunCheckpoint(2), Break()])
    assert saved(tmp_path) == ["step=2.ckpt", "step=3.ckpt"]
    kept = tmp_path / "checkpoints" / "step=3.ckpt"
    assert f"Stopped by RuntimeError. Resume with --resume {kept}" in caplog.text


class Servers(CachedSampler):
    """Like servers that get the weights: sending those of the third step does what it is told to."""

    def __init__(self, act):
        super().__init__()
        self.act, self.sent, self.weights = act, [], []

    def sync(self, policy):
        if policy.version == 3:
            self.act()
        self.sent.append(policy.version)
        self.weights.append(next(policy.parameters()).detach().clone())


def test_bug_813_a_step_is_saved_whose_weights_cannot_be_sent(tiny_module, tiny_data, fit, tmp_path):
    def gone():
        raise PolicyError("No server for sampling")

    module = tiny_module()
    module.policy.sampler = Servers(gone)
    with pytest.raises(PolicyError, match="No server"):
        fit(module, tiny_data(), 5, callbacks=[RunCheckpoint(100)])
    assert saved(tmp_path) == ["step=3.ckpt"]
    assert module.policy.sampler.sent == [0, 1, 2]
    assert module.policy.unsent
    whole, resumed = tiny_module(), tiny_module()
    fit(whole, tiny_data(), 5)
    fit(resumed, tiny_data(), 5, tmp_path / "checkpoints" / "step=3.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_bug_813_a_signal_is_obeyed_while_weights_are_sent(tiny_module, tiny_data, fit, tmp_path):
    def waits():
        signal.raise_signal(signal.SIGTERM)

    module = tiny_module()
    module.policy.sampler = Servers(waits)
    with pytest.raises(Interrupted):
        fit(module, tiny_data(), 5, callbacks=[RunCheckpoint(100)])
    assert module.policy.sampler.sent == [0, 1, 2]
    assert saved(tmp_path) == ["step=3.ckpt"]


@pytest.mark.parametrize("late", [False, True])
def test_bug_842_a_resumed_run_sends_the_weights_of_the_checkpoint_before_it_plays(
    late, tiny_module, tiny_data, fit, tmp_path, monkeypatch
):
    # FSDP2 loads a checkpoint after on_fit_start
    monkeypatch.setattr(SingleDeviceStrategy, "restore_checkpoint_after_setup", property(lambda self: late))

    def run(steps, ckpt_path=None):
        module = tiny_module()
        module.policy.sampler = Servers(lambda: None)
        fit(module, tiny_data(), steps, ckpt_path, callbacks=[RunCheckpoint()])
        return module.policy

    first = run(1)
    assert first.sampler.sent == [0, 1]
    resumed = run(2, tmp_path / "checkpoints" / "last.ckpt")
    assert resumed.sampler.sent == [1, 2]
    assert torch.equal(resumed.sampler.weights[0], next(first.parameters()))


class Paid(ShopRules):
    """Counts what its reviews cost; a server that it asks may end in the third batch."""

    def __init__(self, ends):
        super().__init__()
        self.ends, self.spent_tokens = ends, 0

    def reflect(self, trajectories, policy):
        self.spent_tokens += 100
        if self.ends and self.spent_tokens == 300:
            raise EndpointError("gone")
        return super().reflect(trajectories, policy)

    def state_dict(self):
        return {"spent_tokens": self.spent_tokens}

    def load_state_dict(self, state):
        self.spent_tokens = state["spent_tokens"]


def test_bug_843_a_resumed_run_knows_what_an_interrupted_batch_has_cost(tiny_module, tiny_data, fit, tmp_path):
    def run(name, ckpt_path=None, ends=False):
        reviewer, logger = Paid(ends), CSVLogger(tmp_path, name, version=0)
        module = tiny_module(SelfDistillation(reflector=reviewer))
        fit(module, tiny_data(), 3, ckpt_path, callbacks=[RunCheckpoint(100)], logger=logger)
        return reviewer.spent_tokens

    with pytest.raises(EndpointError):
        run("one", ends=True)
    folder = tmp_path / "one" / "version_0"
    assert json.loads((folder / "spent.json").read_text(encoding="utf-8")) == {"reflector/spent_tokens": 300}
    saved_at = folder / "checkpoints" / "step=2.ckpt"
    assert run("another", saved_at) == 200 + 100  # a new run goes on with the count of its checkpoint
    shutil.copytree(folder, tmp_path / "copied" / "version_0")
    assert run("copied", tmp_path / "copied" / "version_0" / "checkpoints" / "step=2.ckpt") == 300 + 100
    (folder / "spent.json").write_text("{", encoding="utf-8")
    with pytest.raises(HeroError, match=r"spent\.json cannot be read.*or remove it"):
        run("one", saved_at)


def test_bug_857_the_step_is_saved_whose_cost_cannot_be_written(tiny_module, tiny_data, fit, tmp_path, monkeypatch):
    def full(folder, state):
        if state["reflector"]["spent_tokens"] == 200:
            raise HeroError("spent.json cannot be written")

    monkeypatch.setattr("hero_pl.callbacks.run_checkpoint.note_spent", full)
    module, logger = tiny_module(SelfDistillation(reflector=Paid(False))), CSVLogger(tmp_path)
    with pytest.raises(HeroError, match="cannot be written"):
        fit(module, tiny_data(), 3, callbacks=[RunCheckpoint(100)], logger=logger)
    assert saved(tmp_path) == ["step=2.ckpt"]


def test_a_checkpoint_of_another_callback_is_refused_in_its_own_folder(tmp_path):
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        logger=SimpleNamespace(log_dir=tmp_path),
        is_global_zero=True,
        ckpt_path=tmp_path / "other.ckpt",
    )
    with pytest.raises(ConfigError, match=r"other\.ckpt was written without RunCheckpoint.*in another folder"):
        RunCheckpoint().on_load_checkpoint(trainer, None, {"global_step": 3})


def test_bug_853_a_new_run_whose_limits_its_checkpoint_has_reached_is_refused(tiny_module, tiny_data, fit, tmp_path):
    fit(tiny_module(), tiny_data(), 2, callbacks=[RunCheckpoint()])
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    for steps, turns, told in (
        (2, 0, r"trainer\.max_steps=2: the checkpoint .* has 2 optimizer steps"),
        (9, 12, r"turn_budget\.max_turns=12: the checkpoint .* has 12 training turns"),
    ):
        more = {"callbacks": [RunCheckpoint(), TurnBudget(turns)], "logger": CSVLogger(tmp_path, "new")}
        with pytest.raises(ConfigError, match=told + ".* Set .* higher, or continue .* --resume"):
            fit(tiny_module(), tiny_data(), steps, checkpoint, **more)


class FailingReport(Callback):
    """Fails at the end of training."""

    def on_train_end(self, trainer, module):
        raise RuntimeError("no such color")


def test_the_end_is_saved_before_anything_reports_it(tiny_module, tiny_data, fit, tmp_path):
    with pytest.raises(RuntimeError, match="no such color"):
        fit(tiny_module(), tiny_data(), 2, callbacks=[RunCheckpoint(100), FailingReport()])
    assert saved(tmp_path) == ["last.ckpt"]


def test_a_finished_run_that_is_resumed_trains_nothing(tiny_module, tiny_data, fit, tmp_path):
    first = tiny_module()
    fit(first, tiny_data(), -1, callbacks=[TurnBudget(10), RunCheckpoint(100)])
    (last,) = tmp_path.rglob("last.ckpt")
    again = tiny_module()
    trainer = fit(again, tiny_data(), -1, last, callbacks=[TurnBudget(10), RunCheckpoint(100)])
    assert (again.turns, trainer.global_step) == (first.turns, read(last)["global_step"])


def test_a_finished_run_continued_with_a_larger_budget_equals_a_whole_one(tiny_module, tiny_data, fit, tmp_path):
    whole = tiny_module()
    fit(whole, tiny_data(), 4)
    fit(tiny_module(), tiny_data(), 2, callbacks=[RunCheckpoint(100)])
    resumed = tiny_module()
    fit(resumed, tiny_data(), 4, tmp_path / "checkpoints" / "last.ckpt")
    for left, right in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(left, right)


def test_a_new_learning_rate_counts_from_the_next_step(tiny_module, tiny_data, fit, tmp_path):
    fit(tiny_module(lr=1e-3), tiny_data(), 2, callbacks=[RunCheckpoint(100)])
    trainer = fit(tiny_module(lr=1e-6, eps=1e-7), tiny_data(), 3, tmp_path / "checkpoints" / "last.ckpt")
    (group,) = trainer.optimizers[0].param_groups
    assert (group["lr"], group["initial_lr"], group["eps"]) == (1e-6, 1e-6, 1e-7)
    assert trainer.lr_scheduler_configs[0].scheduler.get_last_lr() == [1e-6]


def test_the_weights_of_another_model_are_refused_before_any_is_changed(tiny_module, tiny_data, fit, tmp_path):
    fit(tiny_module(), tiny_data(), 1, callbacks=[RunCheckpoint(100)])
    other = tiny_module()
    other.policy.config["intermediate_size"] = 48
    other.policy.load()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ConfigError, match=r"mlp\.\w+\.weight is \(.*64.*\) in it and \(.*48.*\) in the policy"):
        fit(other, tiny_data(), 2, tmp_path / "checkpoints" / "last.ckpt")
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


@pytest.mark.parametrize("wrong", [{"every_n_steps": 0}, {"every_minutes": -1.0}, {"keep": 0}])
def test_a_wrong_interval_is_refused(wrong):
    with pytest.raises(ConfigError, match="enable_checkpointing: false"):
        RunCheckpoint(**wrong)
