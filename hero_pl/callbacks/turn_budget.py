"""Stop after a number of training turns: the unit in which methods are compared."""

from __future__ import annotations

import warnings
from typing import Any

import lightning

from hero_pl.errors import ConfigError

PATIENCE = 20
"""Batches in a row without an optimizer step that are worth a warning; ten times as many end a run without budget."""


class TurnBudget(lightning.Callback):
    """Stops training once the policy has used its turns.

    It also notices when nothing is learned: a batch without a hinted turn makes no optimizer step, so a run that is
    bounded by ``trainer.max_steps`` alone would go on for ever.

    Args:
        max_turns: Assistant turns sampled for training, hinted or not; 0 means no budget.
    """

    def __init__(self, max_turns: int = 0) -> None:
        if max_turns < 0:
            raise ConfigError(f"turn_budget.max_turns={max_turns}: must be positive, or 0 for no budget.")
        self.max_turns = max_turns
        self._idle, self._last_step = 0, -1

    def spent(self, trainer: lightning.Trainer) -> bool:
        """Whether the budget is used up."""
        turns: Any = trainer.lightning_module.turns
        return bool(self.max_turns) and int(turns) >= self.max_turns

    def on_train_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        """A finished run that is resumed trains nothing."""
        trainer.should_stop = trainer.should_stop or self.spent(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Look at the counters after every step."""
        trainer.should_stop = trainer.should_stop or self.spent(trainer)
        self._idle = self._idle + 1 if trainer.global_step == self._last_step else 0
        self._last_step = trainer.global_step
        if self._idle == PATIENCE and trainer.is_global_zero:
            warnings.warn(
                f"{PATIENCE} batches in a row made no optimizer step: no turn in them had a usable hint, or the "
                "gradient was not finite. See reflection/*, hero/hinted_turns and train/grad_norm in the metrics, and "
                "the episodes with: hero_pl view",
                stacklevel=2,
            )
        if self._idle == 10 * PATIENCE and not self.max_turns:
            trainer.should_stop = True
            if trainer.is_global_zero:
                warnings.warn(
                    f"No optimizer step in {10 * PATIENCE} batches in a row, and no turn budget: training stops.",
                    stacklevel=2,
                )
