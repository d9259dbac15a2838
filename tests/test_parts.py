"""A component in a checkpoint gives its state only to a component of the same class."""

import warnings
from typing import Any

import pytest
import torch

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.cli.smoke import FixedDiagnoses
from hero_pl.losses.gates import Contrastive
from hero_pl.module import HeroModule
from hero_pl.objectives.mixed import Credit, Mixed
from hero_pl.objectives.policy_gradient import GRPO, PolicyGradient
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.parts import CLASSES
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.loading import Lora
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.reflection.controls import BlindReflector, ShuffledReflector
from hero_pl.reflection.policy_reflector import PolicyReflector
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.teacher.full_demo import FullDemoTeacher
from hero_pl.teacher.weights import (
    EMAWeights,
    GatedWeights,
    InitialWeights,
    LiveWeights,
    PeriodicWeights,
    TrustRegionWeights,
)


def hero(**changes: Any) -> SelfDistillation:
    return SelfDistillation(**{"reflector": ShopRules(), **changes})


CHANGES = {
    "weights": [LiveWeights, EMAWeights, InitialWeights, PeriodicWeights, GatedWeights, TrustRegionWeights],
    "teacher": [lambda: FullDemoTeacher("buffer")],
    "reflector": [
        lambda: ShuffledReflector(ShopRules()),
        lambda: BlindReflector(ScriptedReflector([])),
        lambda: ScriptedReflector([]),
    ],
}


@pytest.mark.parametrize(
    ("part", "make"), [(part, make) for part, classes in CHANGES.items() for make in classes if make is not LiveWeights]
)
def test_bug_743_a_part_of_another_class_starts_afresh_and_says_so(part, make):
    before, after = hero(), hero(**{part: make()})
    for old, new in ((before, after), (after, before)):
        was, now = (type(getattr(one, part)).__name__ for one in (old, new))
        fresh = getattr(new, part).state_dict()
        with pytest.warns(UserWarning, match=f"{part}: the checkpoint was written with {was}, .* has {now}. It starts"):
            new.load_state_dict(old.state_dict())
        assert getattr(new, part).state_dict() == fresh


@pytest.mark.parametrize("make", [EMAWeights, PeriodicWeights, GatedWeights])
def test_bug_743_a_checkpoint_without_classes_is_read_if_the_entries_fit(make):
    state = hero(weights=make()).state_dict()
    state["weights"] = {name: 7 for name in state["weights"]}
    del state[CLASSES]
    again, other = hero(weights=make()), hero(weights=GatedWeights())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again.load_state_dict(state)
    assert again.weights.state_dict() == state["weights"]
    if make is not GatedWeights:
        with pytest.warns(UserWarning, match="weights: the checkpoint was written with another class"):
            other.load_state_dict(state)


def test_bug_743_inner_reflectors_and_policy_gradients_are_told_apart_too():
    inner = ShuffledReflector(ScriptedReflector([]))
    with pytest.warns(UserWarning, match=r"inner: .* with ScriptedReflector, the configuration has ShopRules"):
        ShuffledReflector(ShopRules()).load_state_dict(inner.state_dict())
    with pytest.warns(UserWarning, match=r"policy_gradient: .* with GRPO, the configuration has PolicyGradient"):
        Mixed(reflector=ShopRules()).load_state_dict(Mixed(GRPO(), reflector=ShopRules()).state_dict())


@pytest.mark.parametrize("make", [EMAWeights, PeriodicWeights, lambda: GatedWeights(1)])
def test_bug_743_a_run_is_resumed_with_other_weights_of_the_teacher(make, tiny_module, tiny_data, fit, tmp_path):
    fit(tiny_module(), tiny_data(), 2).save_checkpoint(tmp_path / "live.ckpt")
    with pytest.warns(UserWarning, match="weights: the checkpoint was written with LiveWeights"):
        trainer = fit(tiny_module(hero(weights=make())), tiny_data(), 3, tmp_path / "live.ckpt")
    assert trainer.global_step == 3


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_bug_743_trained_weights_are_not_called_initial_without_a_word(lora, tiny_policy, tiny_data, fit, tmp_path):
    def module(weights):
        torch.manual_seed(0)
        return HeroModule(tiny_policy(lora=lora), hero(weights=weights), lr=1e-2, warmup_steps=0)

    fit(module(LiveWeights()), tiny_data(), 2).save_checkpoint(tmp_path / "live.ckpt")
    fit(module(InitialWeights()), tiny_data(), 2).save_checkpoint(tmp_path / "initial.ckpt")
    for name, warned in (("live", lora is None), ("initial", False)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(module(InitialWeights()), tiny_data(), 3, tmp_path / f"{name}.ckpt")
        said = [str(one.message) for one in caught if "initial weights are needed" in str(one.message)]
        assert bool(said) == warned
        assert all("the weights of optimizer step 2 take their place" in text for text in said)


def copies_of(module):
    return {
        name: {key: value.clone() for key, value in copy.items()}
        for name, copy in module.policy.copies_state().items()
        if copy
    }


@pytest.fixture
def stretch(tiny_module, tiny_data, fit, tmp_path):
    """Trains up to a step, resumed from the previous call; returns the module. The checkpoint is ``N.ckpt``."""
    newest = []

    def run(weights, steps, **changes):
        module = tiny_module(hero(weights=weights, **changes))
        trainer = fit(module, tiny_data(), steps, *newest[-1:])
        newest.append(tmp_path / f"{steps}.ckpt")
        trainer.save_checkpoint(newest[-1])
        return module

    return run


@pytest.mark.filterwarnings("ignore:weights:UserWarning")
def test_bug_815_a_copy_that_no_part_uses_any_more_is_dropped_and_made_anew_later(stretch, tmp_path, caplog):
    averaged = stretch(EMAWeights(0.5), 2)
    assert copies_of(averaged).keys() == {"ema"}
    with caplog.at_level("INFO"):
        live = stretch(LiveWeights(), 4)
    assert "no part uses any more are dropped: ['ema']" in caplog.text
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "4.ckpt")["hero"]["copies"] == {}
    live.roll_back(AtomicCheckpointIO().load_checkpoint(tmp_path / "2.ckpt"))
    assert copies_of(live) == {}
    before = {name: weight.clone() for name, weight in live.policy.network.model.state_dict().items()}
    again = stretch(EMAWeights(0.5), 5)
    after = again.policy.network.model.state_dict()
    for name, average in copies_of(again)["ema"].items():
        torch.testing.assert_close(average, 0.5 * before[name] + 0.5 * after[name])


def mixed(**changes):
    return Mixed(GRPO(beta_kl=0.1), **{"reflector": ShopRules(), **changes})


def initial():
    return SelfReflector(weights="initial")


USES = [
    (lambda: hero(), set()),
    (lambda: hero(weights=EMAWeights()), {"ema"}),
    (lambda: hero(weights=PeriodicWeights()), {"periodic"}),
    (lambda: hero(weights=GatedWeights()), {"gated"}),
    (lambda: hero(weights=InitialWeights()), {"initial"}),
    (lambda: hero(weights=TrustRegionWeights()), {"initial"}),
    (lambda: hero(reflector=ShuffledReflector(BlindReflector(initial())), weights=EMAWeights()), {"initial", "ema"}),
    (lambda: hero(reflector=FixedDiagnoses(initial()), gate=Contrastive()), {"initial"}),
    (lambda: hero(reflector=PolicyReflector(another())), set()),
    (lambda: GRPO(beta_kl=0.1), {"initial"}),
    (lambda: GRPO(), set()),
    (lambda: mixed(weights=GatedWeights()), {"initial", "gated"}),
    (lambda: Credit(policy_gradient=PolicyGradient(beta_kl=0.1), reflector=ShopRules()), {"initial"}),
]
"""Objectives, and the frozen copies that they use."""


def another():
    policy = ScriptedPolicy()
    policy.load = lambda: None
    return policy


@pytest.mark.parametrize(("make", "used"), USES)
def test_bug_815_copies_that_a_part_uses_are_not_dropped(make, used, tiny_policy):
    policy = tiny_policy()
    policy.load()
    for name in ("ema", "periodic", "gated", "initial"):
        policy.need_network("a test").keep(name)  # as a checkpoint brings them
    make().start(policy)
    assert set(policy.drop_unwanted_copies()) == {"ema", "periodic", "gated", "initial"} - used
    assert policy.copies_state().keys() == used


@pytest.mark.parametrize(("make", "used"), USES)
def test_bug_814_an_objective_names_the_copies_that_it_starts_with(make, used, tiny_policy):
    objective, policy = make(), tiny_policy()
    policy.load()
    objective.start(policy)
    assert objective.copies.keys() == policy.copies_state().keys() == used
    kept = {name: next(copy.parameters()).dtype for name, copy in policy.need_network("a test").copies.items()}
    assert {name: dtype or torch.float32 for name, dtype in objective.copies.items()} == kept
