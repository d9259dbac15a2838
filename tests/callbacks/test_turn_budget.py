"""A warning before the first step about live weights with a long budget."""

import warnings

import pytest

from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.objectives.self_distillation import LONG, SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.teacher.hindsight import HindsightTeacher
from hero_pl.teacher.weights import InitialWeights, LiveWeights


@pytest.mark.parametrize(
    ("weights", "budget", "warned"),
    [(LiveWeights(), LONG + 1, True), (LiveWeights(), LONG, False), (InitialWeights(), LONG + 1, False)],
)
def test_live_weights_on_a_long_budget_are_warned_of(weights, budget, warned, tiny_module, tiny_data, fit) -> None:
    module = tiny_module(SelfDistillation(ShopRules(), HindsightTeacher(), weights))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module, tiny_data(), 1, callbacks=[TurnBudget(budget)])
    texts = [str(one.message) for one in caught]
    assert any("hero_robust" in text and "LiveWeights" in text for text in texts) is warned
