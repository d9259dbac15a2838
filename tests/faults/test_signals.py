"""Cases 19 and 20: a signal at any time costs at most the current step, and that step is repeated."""

import json
import os
import signal
from datetime import timedelta

import pytest
from lightning import Callback
from lightning.pytorch.callbacks import Timer

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO, verify
from hero_pl.callbacks.held_out import HeldOut
from hero_pl.callbacks.interrupts import Interrupts
from hero_pl.callbacks.run_checkpoint import RunCheckpoint
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from tests.faults.conftest import episodes, same_weights


def strike(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


class StruckReflector(ShopRules):
    """Is interrupted in its third step."""

    calls = 0

    def reflect(self, trajectories, policy):
        reflections = super().reflect(trajectories, policy)
        self.calls += 1
        if self.calls == 3:
            strike()
        return reflections


class Struck(Callback):
    """Interrupts the third step at a given place."""

    def __init__(self, where, number=signal.SIGTERM):
        self.where, self.number = where, number

    def on_train_start(self, trainer, module):
        def in_the_third(*_):
            if trainer.global_step == (0 if self.where == "first rollout" else 2):
                strike(self.number)

        if "rollout" in self.where:
            trainer.datamodule.on_progress = in_the_third
        if self.where == "backward":
            next(p for p in module.parameters() if p.requires_grad).register_hook(in_the_third)
        if self.where == "step":
            module.objective.after_step = in_the_third

    def on_train_batch_end(self, trainer, *args):
        if self.where == "report" and trainer.global_step == 3:
            strike(self.number)


class StruckSave(AtomicCheckpointIO):
    """Is interrupted while it writes the second checkpoint."""

    count = 0

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        self.count += 1
        if self.count == 2:
            strike()
        super().save_checkpoint(checkpoint, path, storage_options)


def interrupted(run, where, number=signal.SIGTERM):
    """Exit status of a run that a signal interrupts at a place; nothing was saved before, except where it is a save."""
    objective = SelfDistillation(reflector=StruckReflector() if where == "reflection" else ShopRules())
    more = {"plugins": [StruckSave()]} if where == "save" else {}
    keeper = RunCheckpoint(1 if where == "save" else 100)
    with pytest.raises(SystemExit) as ended:
        run("run", objective, callbacks=[Struck(where, number)], keeper=keeper, **more)
    return ended.value.code


@pytest.fixture
def whole(run, tmp_path):
    """The uninterrupted run, and its episodes."""
    return run("whole", SelfDistillation(reflector=ShopRules())), episodes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("where", "kept"),
    [("first rollout", 0), ("rollout", 2), ("reflection", 2), ("backward", 2), ("step", 2), ("save", 2), ("report", 3)],
)
def test_after_a_signal_the_resumed_run_equals_the_whole_one(where, kept, run, newest, whole, tmp_path):
    assert interrupted(run, where) == 128 + signal.SIGTERM
    assert verify(newest()).step == kept
    resumed = run("run", SelfDistillation(reflector=ShopRules()), resume=newest())
    assert same_weights(whole[0], resumed)
    assert episodes(tmp_path / "run") == whole[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_every_signal_that_ends_a_run_has_its_own_status(number, run, newest):
    before = signal.getsignal(signal.SIGINT)  # the default, or ignored where the tests run in the background
    assert interrupted(run, "rollout", number) == 128 + number
    assert verify(newest()).step == 2
    assert signal.getsignal(signal.SIGINT) is before


def struck_evaluation():
    """Is interrupted in its second evaluation, that after training; its state is that of the callback."""
    evaluation = HeldOut(2, method="tiny")
    measure = evaluation.measure

    def struck(*args):
        if evaluation.results:
            strike()
        return measure(*args)

    evaluation.measure = struck
    return evaluation


ENDS = {
    "steps": lambda: ({"steps": 2}, []),
    "epochs": lambda: ({"steps": -1, "max_epochs": 1, "limit_train_batches": 2}, []),
    "turns": lambda: ({"steps": -1}, [TurnBudget(9)]),
    "time": lambda: ({"steps": -1}, [Timer(timedelta(seconds=1e-6), interval="step")]),
}


@pytest.mark.parametrize("end", ENDS)
def test_bug_801_after_a_signal_in_the_last_evaluation_it_is_made_by_the_resumed_run(end, run, newest, tmp_path):
    def train(folder, evaluation=None, resume=None):
        limits, callbacks = ENDS[end]()
        objective = SelfDistillation(reflector=ShopRules())
        callbacks = [*callbacks, evaluation or HeldOut(2, method="tiny")]
        run(folder, objective, callbacks=callbacks, keeper=RunCheckpoint(100), resume=resume, **limits)
        return (tmp_path / folder / "eval.jsonl").read_text(), episodes(tmp_path / folder)

    whole = train("whole")
    with pytest.raises(SystemExit):
        train("run", struck_evaluation())
    assert not (tmp_path / "run" / "summary.json").exists()
    for _ in range(2):  # the second time it is complete
        assert train("run", resume=newest()) == whole
        curve = json.loads((tmp_path / "run" / "summary.json").read_text())["curve"]
        assert curve.keys() == json.loads((tmp_path / "whole" / "summary.json").read_text())["curve"].keys()
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["last.ckpt"]


class Broken(Callback):
    """Raises after the weights of the third step were changed."""

    def on_train_start(self, trainer, module):
        def fail(policy):
            if trainer.global_step == 3:  # counted when the optimizer has stepped
                raise RuntimeError("the teacher is gone")

        module.objective.after_step = fail


def test_an_error_in_the_middle_of_a_step_saves_no_half_of_it(run, tmp_path):
    with pytest.raises(RuntimeError, match="the teacher is gone"):
        run("run", SelfDistillation(reflector=ShopRules()), callbacks=[Broken()], keeper=RunCheckpoint(100))
    assert not list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


class EndedError(Exception):
    """In the place of the end of this process."""


def test_a_second_ctrl_c_ends_the_process_even_while_it_saves(monkeypatch, capfd):
    def end(status):
        raise EndedError(status)

    monkeypatch.setattr("hero_pl.callbacks.interrupts.os._exit", end)
    interrupts = Interrupts()
    interrupts.listen()
    interrupts.held = True
    try:
        strike(signal.SIGINT)
        strike(signal.SIGTERM)  # one who waits patiently changes nothing
        with pytest.raises(EndedError, match="130"):
            strike(signal.SIGINT)
    finally:
        interrupts.stop_listening()
    assert "press Ctrl-C again" in capfd.readouterr().err
