"""Restored state is complete: a run resumed at any of 12 steps equals the whole run bit for bit."""

import pytest
import torch

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.callbacks.run_checkpoint import RunCheckpoint
from hero_pl.errors import ConfigError
from hero_pl.module import HeroModule
from hero_pl.objectives.policy_gradient import GRPO
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.huggingface import Lora
from hero_pl.teacher.weights import EMAWeights, GatedWeights, InitialWeights
from tests.faults.conftest import same

STEPS = 12
COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "hero", "RolloutDataModule", "global_step")


def hero(weights):
    return lambda: SelfDistillation(reflector=ShopRules(), weights=weights())


KINDS = {
    "frozen teacher": hero(InitialWeights),
    "moving teacher": hero(lambda: EMAWeights(0.3)),
    "gated teacher": hero(lambda: GatedWeights(1, length_guard=2.0)),
    "grpo": GRPO,
    "adapter": hero(InitialWeights),
    "adapter and moving teacher": hero(lambda: EMAWeights(0.3)),
}


def state_of(path):
    state = AtomicCheckpointIO().load_checkpoint(path)
    return {name: state[name] for name in COMPARED}


@pytest.fixture
def module_of(tiny_policy):
    def make(kind):
        torch.manual_seed(0)
        policy = tiny_policy(lora=Lora(rank=2, alpha=4) if kind.startswith("adapter") else None)
        return HeroModule(policy, KINDS[kind](), lr=1e-2, warmup_steps=0, schedule="linear", total_steps=14)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_from_every_step_the_next_one_is_the_same_bit_for_bit(kind, run, module_of, tiny_data, tmp_path):
    def data():
        return tiny_data(group_size=2 if kind == "grpo" else 1)

    epochs = {"limit_train_batches": 3}  # checkpoints within an epoch and between two
    run("whole", module=module_of(kind), data=data(), steps=STEPS, keeper=RunCheckpoint(1, keep=99), **epochs)
    kept = {step: tmp_path / "whole" / "checkpoints" / f"step={step}.ckpt" for step in range(1, STEPS + 1)}
    for step in range(1, STEPS):
        torch.manual_seed(step)  # nothing may hang on the global generator
        folder = f"from-{step}"
        run(folder, module=module_of(kind), data=data(), resume=kept[step], steps=step + 1, **epochs)
        actual, wanted = state_of(tmp_path / folder / "checkpoints" / "last.ckpt"), state_of(kept[step + 1])
        for name in COMPARED:
            assert same(actual[name], wanted[name]), (step, name)


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def test_the_checkpoint_of_an_adapter_holds_the_adapter_and_its_optimizer_alone(run, module_of, newest):
    module = run("run", module=module_of("adapter"), steps=2)
    adapter = sum(p.numel() for p in module.parameters() if p.requires_grad)
    state = AtomicCheckpointIO().load_checkpoint(newest())
    assert all("lora_" in name for name in state["state_dict"])
    large = [tensor.numel() for tensor in tensors_in(state) if tensor.numel() > 1]
    assert sum(large) == 3 * adapter  # with both averages of AdamW


def test_an_adapter_is_not_resumed_on_another_base(run, module_of, newest):
    run("run", module=module_of("adapter"), steps=1)
    other = module_of("adapter")
    other.policy.seed = 7
    with pytest.raises(ConfigError, match="pretrained model is not the one"):
        run("again", module=other, resume=newest(), steps=2)


def test_a_frozen_teacher_is_not_stored_where_loading_gives_it_again(run, module_of, newest):
    module = run("run", module=module_of("frozen teacher"), steps=1)
    assert AtomicCheckpointIO().load_checkpoint(newest())["hero"]["copies"] == {"initial": {}}
    assert list(module.policy.network.copies) == ["initial"]


def test_a_frozen_teacher_that_is_not_what_loading_gives_is_stored(run, module_of, newest):
    module = module_of("frozen teacher")
    module.policy.load()
    with torch.no_grad():
        next(module.policy.network.model.parameters()).view(-1)[5] += 1.0
    before = {name: value.clone() for name, value in module.policy.network.model.state_dict().items()}
    run("run", module=module, steps=1)
    assert same(AtomicCheckpointIO().load_checkpoint(newest())["hero"]["copies"]["initial"], before)
