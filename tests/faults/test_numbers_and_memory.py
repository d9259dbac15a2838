"""Cases 17 and 18: numbers that are not finite, and too little memory."""

import pytest
import torch

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.runs.records import read_records
from tests.faults.conftest import same, same_weights


class Faulty(SelfDistillation):
    """Fails in the loss of some steps, counted from 1."""

    def __init__(self, steps, fault):
        super().__init__(reflector=ShopRules())
        self.steps, self.fault, self.step = steps, fault, 0

    def prepare(self, *args):
        self.step += 1
        return super().prepare(*args)

    def loss(self, policy, micro):
        out = super().loss(policy, micro)
        return self.fault(self, out) if self.step in self.steps else out


def not_a_number(objective, out):
    return type(out)(out.loss * float("nan"), out.metrics)


def test_a_gradient_that_is_no_number_changes_no_weight(run):
    once, never = Faulty({3}, not_a_number), Faulty(set(), not_a_number)
    assert same_weights(run("short", never, steps=2), run("run", once, steps=3, limit_train_batches=3, max_epochs=1))


def test_so_many_of_them_in_a_row_end_the_run_with_state_and_batch_kept(run, newest, tiny_module, tmp_path):
    module = tiny_module(Faulty({3, 4, 5, 6}, not_a_number), max_broken_steps=3)
    with pytest.raises(PolicyError, match=r"not finite in 3 batches in a row.*broken_batch\.jsonl"):
        run("run", module=module, steps=9)
    records = list(read_records(tmp_path / "run" / "broken_batch.jsonl"))
    assert [turn.action_ids for record in records for turn in record.trajectory.turns]
    kept = AtomicCheckpointIO().load_checkpoint(newest())["state_dict"]
    assert same(kept, dict(run("short", Faulty(set(), not_a_number), steps=2).state_dict()))


LARGE = 1 << 14
"""Tokens of a micro-batch that has both episodes of a step."""


class Full:
    """Raises a given number of times."""

    def __init__(self, times):
        self.times = times

    def __call__(self, objective, out):
        if self.times:
            self.times -= 1
            raise torch.OutOfMemoryError("out of memory")
        return out

    def in_backward(self, objective, out):
        if self.times:
            self.times -= 1
            out.loss.register_hook(self.strike)
        return out

    def strike(self, gradient):
        raise torch.OutOfMemoryError("out of memory")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_micro_batch_that_does_not_fit_is_split_and_the_gradient_is_the_same(where, run, tiny_module):
    full = Full(1)
    objective = Faulty({2}, full if where == "forward" else full.in_backward)
    with pytest.warns(UserWarning, match="from now on"):
        split = run("run", module=tiny_module(objective, tokens_per_micro_batch=LARGE), steps=2)
    whole = run("whole", Faulty(set(), full), steps=2)
    for left, right in zip(split.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator of NVIDIA")
def test_a_failed_allocation_of_the_accelerator_is_split_too(run):
    def allocate(objective, out):
        if not objective.failed:
            objective.failed = True
            torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        return out

    objective = Faulty({2}, allocate)
    objective.failed = False
    with pytest.warns(UserWarning, match="from now on"):
        split = run("run", objective, steps=2, accelerator="gpu")
    whole = run("whole", Faulty(set(), allocate), steps=2, accelerator="gpu")
    for left, right in zip(split.parameters(), whole.parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-5)


def test_what_does_not_fit_after_the_split_ends_the_run_with_the_cure_and_its_state(run, newest, tiny_module):
    with (
        pytest.warns(UserWarning, match="from now on"),
        pytest.raises(PolicyError, match=r"Lower model\.tokens_per_micro_batch"),
    ):
        run("run", module=tiny_module(Faulty({3}, Full(9)), tokens_per_micro_batch=LARGE), steps=4)
    assert newest().name == "step=2.ckpt"


def test_a_rollout_that_does_not_fit_ends_the_run_with_the_cure_and_its_state(run, newest, tiny_module, monkeypatch):
    module, calls = tiny_module(), []

    def finished(self):
        calls.append(1)
        if len(calls) > 6:
            raise torch.OutOfMemoryError("out of memory")
        return play(self)

    from hero_pl.policy.sampler import CachedSession

    play = CachedSession.finished
    monkeypatch.setattr(CachedSession, "finished", finished)
    with pytest.raises(PolicyError, match=r"2 episodes in flight.*data\.limits\.num_envs"):
        run("run", module=module)
    assert newest().name == "step=2.ckpt"


def test_no_limit_on_broken_steps_is_refused(tiny_module):
    with pytest.raises(ConfigError, match="max_broken_steps=0"):
        tiny_module(max_broken_steps=0)
