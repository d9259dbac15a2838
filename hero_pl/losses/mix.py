"""Weighted sum of a policy-gradient loss and a distillation loss.

Both are already normalized, each over its own tokens, so a gate on one does not rescale the other.
"""

from __future__ import annotations

from typing import Literal, TypeVar

from torch import Tensor

from hero_pl.errors import ConfigError

MixMode = Literal["convex", "additive"]
Loss = TypeVar("Loss", Tensor, float)


def mix_weights(distillation_weight: float, mode: MixMode = "convex") -> tuple[float, float]:
    """Factors of the policy-gradient loss and of the distillation loss.

    Args:
        distillation_weight: ``w``; in [0, 1] for a convex mixture, any non-negative number for an additive one.
        mode: ``convex`` gives ``(1 - w, w)``, ``additive`` gives ``(1, w)``.

    Raises:
        ConfigError: The weight is out of range for the mode, or the mode is unknown.
    """
    if mode not in ("convex", "additive"):
        raise ConfigError(f"mix={mode!r}: expected convex or additive.")
    if not 0.0 <= distillation_weight <= (1.0 if mode == "convex" else float("inf")):
        raise ConfigError(
            f"distillation_weight={distillation_weight} with mix={mode}: expected a weight in [0, 1] for a convex "
            "mixture, or a non-negative weight for an additive one."
        )
    return (1.0 - distillation_weight if mode == "convex" else 1.0), distillation_weight


def mix_losses(
    policy_loss: Loss, distillation_loss: Loss, distillation_weight: float, mode: MixMode = "convex"
) -> Loss:
    """Weighted sum of both losses; see ``mix_weights``.

    Example:
        >>> round(mix_losses(0.4, 0.1, 0.7, "convex"), 2), round(mix_losses(0.4, 0.1, 0.7, "additive"), 2)
        (0.19, 0.47)
    """
    of_policy, of_distillation = mix_weights(distillation_weight, mode)
    return of_policy * policy_loss + of_distillation * distillation_loss
