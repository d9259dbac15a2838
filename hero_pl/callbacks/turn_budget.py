"""Stop after a number of training turns, the unit by which methods are compared."""

from __future__ import annotations

import warnings
from typing import Any

import lightning

from hero_pl.errors import ConfigError
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.teacher.weights import LiveWeights

LONG = 1000
"""Training turns after which runs with live weights were lost (README.md)."""


class TurnBudget(lightning.Callback):
    """Stops training when the policy has used its turns.

    Args:
        max_turns: Assistant turns sampled for training, with or without hints; 0 for no limit.
    """

    def __init__(self, max_turns: int = 0) -> None:
        if max_turns < 0:
            raise ConfigError(f"turn_budget.max_turns={max_turns}: expected a positive number, or 0 for no budget.")
        self.max_turns = max_turns

    def spent(self, trainer: lightning.Trainer) -> bool:
        """Whether the budget is used up."""
        turns: Any = trainer.lightning_module.turns
        return bool(self.max_turns) and int(turns) >= self.max_turns

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Warn of live weights on a long budget."""
        objective = pl_module.objective
        if (
            self.max_turns > LONG
            and isinstance(objective, SelfDistillation)
            and isinstance(objective.weights, LiveWeights)
            and trainer.is_global_zero
        ):
            warnings.warn(
                f"turn_budget.max_turns={self.max_turns} with LiveWeights: a teacher that follows the student loses "
                "the reading of hints in long runs and takes the policy with it. "
                f"Beyond {LONG} turns use InitialWeights or configs/hero_robust.yaml, or watch collapse_guard.",
                stacklevel=2,
            )

    def on_train_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Stop at once if a finished run is resumed."""
        trainer.should_stop = trainer.should_stop or self.spent(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Stop if the budget is used up."""
        trainer.should_stop = trainer.should_stop or self.spent(trainer)
