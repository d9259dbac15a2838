"""Mixing two losses."""

import pytest
import torch

from hero_pl.errors import ConfigError
from hero_pl.losses import mix_losses, mix_weights


def test_weights_of_both_modes() -> None:
    assert mix_weights(0.75, "convex") == (0.25, 0.75)
    assert mix_weights(0.75, "additive") == (1.0, 0.75)
    assert mix_weights(1.0) == (0.0, 1.0)


def test_gradients_reach_both_losses_with_their_weights() -> None:
    policy, distillation = torch.tensor(2.0, requires_grad=True), torch.tensor(4.0, requires_grad=True)
    mixed = mix_losses(policy, distillation, 0.25, "convex")
    assert mixed.item() == 2.5
    mixed.backward()
    assert (policy.grad, distillation.grad) == (torch.tensor(0.75), torch.tensor(0.25))


@pytest.mark.parametrize(("weight", "mode"), [(1.1, "convex"), (-0.1, "additive"), (0.5, "mean")])
def test_unusable_weights_are_refused(weight: float, mode: str) -> None:
    with pytest.raises(ConfigError):
        mix_weights(weight, mode)  # type: ignore[arg-type]
