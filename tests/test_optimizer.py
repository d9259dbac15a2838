"""Muon and AdamW as one optimizer: the assignment of parameters, and a complete state in checkpoints."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from hero_pl.errors import ConfigError
from hero_pl.optimizer import MuonAdamW


class Small(nn.Module):
    """One matrix of each kind, one vector, one frozen matrix."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed_tokens = nn.Embedding(5, 4)
        self.hidden = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4, bias=False).requires_grad_(False)
        self.lm_head = nn.Linear(4, 5, bias=False)

    def forward(self, ids):
        return self.lm_head(self.frozen(self.hidden(self.embed_tokens(ids)).tanh()))


def trained(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.arange(5)), torch.arange(5)).backward()
        optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_only_hidden_matrices_are_muons_and_frozen_weights_are_nobodys():
    model = Small()
    muon, adam = MuonAdamW.of(model, lr=0.1, matrix_lr=0.2).parts
    assert [p is model.hidden.weight for p in muon.param_groups[0]["params"]] == [True]
    assert {id(p) for p in adam.param_groups[0]["params"]} == {
        id(p) for p in (model.embed_tokens.weight, model.hidden.bias, model.lm_head.weight)
    }


def test_a_step_moves_both_kinds_and_leaves_frozen_weights():
    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = trained(model, MuonAdamW.of(model, lr=0.1, matrix_lr=0.1), 1)
    assert {name for name in after if not torch.equal(before[name], after[name])} == {
        "embed_tokens.weight",
        "hidden.weight",
        "hidden.bias",
        "lm_head.weight",
    }


def test_a_schedule_reaches_the_rates_of_both():
    model = Small()
    optimizer = MuonAdamW.of(model, lr=0.1, matrix_lr=0.2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    trained(model, optimizer, 1)
    schedule.step()
    assert [part.param_groups[0]["lr"] for part in optimizer.parts] == [0.1, 0.05]


def test_a_resumed_optimizer_continues_bit_for_bit():
    model = Small()
    optimizer = MuonAdamW.of(model, lr=0.1, matrix_lr=0.2)
    trained(model, optimizer, 3)
    other = copy.deepcopy(model)
    resumed = MuonAdamW.of(other, lr=0.9, matrix_lr=0.9)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    uninterrupted, continued = trained(model, optimizer, 3), trained(other, resumed, 3)
    assert all(torch.equal(uninterrupted[name], continued[name]) for name in uninterrupted)
    assert all(part.state[p] is resumed.state[p] for part in resumed.parts for p in part.param_groups[0]["params"])


def test_state_that_is_replaced_from_outside_is_what_the_next_step_uses():
    """Moving an optimizer to another device replaces its state."""
    model = Small()
    optimizer = MuonAdamW.of(model, lr=0.1, matrix_lr=0.2)
    trained(model, optimizer, 2)
    for parameter in list(optimizer.state):
        optimizer.state[parameter] = {
            name: torch.zeros_like(value) for name, value in optimizer.state[parameter].items()
        }
    other = copy.deepcopy(model)
    fresh = MuonAdamW.of(other, lr=0.1, matrix_lr=0.2)
    replaced, started = trained(model, optimizer, 1), trained(other, fresh, 1)
    assert all(torch.equal(replaced[name], started[name]) for name in replaced)


def test_a_module_hands_its_matrices_to_muon_only_when_asked(tiny_module, tiny_data, fit):
    module = tiny_module(matrix_lr=0.02)
    trainer = fit(module, tiny_data(), 2)
    assert isinstance(trainer.optimizers[0], MuonAdamW)
    assert isinstance(fit(tiny_module(), tiny_data(), 1).optimizers[0], torch.optim.AdamW)
    with pytest.raises(ConfigError, match="matrix_lr"):
        tiny_module(matrix_lr=0.0)


def test_a_run_with_muon_resumes_bit_for_bit_from_its_checkpoint(tiny_module, tiny_data, fit, tmp_path):
    def run(steps, ckpt_path=None, callbacks=()):
        module = tiny_module(matrix_lr=0.02, schedule="linear", total_steps=6)
        trainer = fit(
            module, tiny_data(), steps, ckpt_path, enable_checkpointing=bool(callbacks), callbacks=[*callbacks]
        )
        return module.state_dict(), trainer.optimizers[0].state_dict()

    whole = run(4, callbacks=[ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)])
    resumed = run(4, tmp_path / "step=2.ckpt")
    assert all(torch.equal(whole[0][name], resumed[0][name]) for name in whole[0])
    mine, theirs = whole[1]["state"], resumed[1]["state"]
    assert mine.keys() == theirs.keys() != set()
    for place, state in mine.items():
        assert all(torch.equal(value, theirs[place][name]) for name, value in state.items())
