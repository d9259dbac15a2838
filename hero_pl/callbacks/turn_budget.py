"""Stop after a number of training turns, the unit by which methods are compared."""

from __future__ import annotations

from typing import Any

import lightning

from hero_pl.errors import ConfigError


class TurnBudget(lightning.Callback):
    """Stops training when the policy has used its turns.

    Args:
        max_turns: Assistant turns sampled for training, with or without hints; 0 for no limit.
    """

    def __init__(self, max_turns: int = 0) -> None:
        if max_turns < 0:
            raise ConfigError(f"turn_budget.max_turns={max_turns}: expected a positive number, or 0 for no budget.")
        self.max_turns = max_turns

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Refuse a run without an end, or without a step.

        Raises:
            ConfigError: It is one of these.
        """
        if stage != "fit":
            return
        for key in ("max_steps", "max_epochs", "limit_train_batches"):
            if getattr(trainer, key) == 0:
                raise ConfigError(f"trainer.{key}=0: nothing would be trained. Evaluate with: hero_pl test")
        stopping = (lightning.pytorch.callbacks.Timer, lightning.pytorch.callbacks.EarlyStopping)
        ends = trainer.max_steps > 0 or (trainer.max_epochs or 0) > 0 or self.max_turns
        if not ends and not any(isinstance(callback, stopping) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise ConfigError(
                "turn_budget.max_turns=0, and trainer has neither max_steps nor max_epochs nor max_time: the run would "
                "have no end. Set one of them."
            )

    def spent(self, trainer: lightning.Trainer) -> bool:
        """Whether the budget is used up."""
        turns: Any = trainer.lightning_module.turns
        return bool(self.max_turns) and int(turns) >= self.max_turns

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Let the objective warn of a budget that it does not stand."""
        if trainer.is_global_zero:
            pl_module.objective.check_budget(self.max_turns)

    def on_train_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Stop at once if a finished run is resumed."""
        trainer.should_stop = trainer.should_stop or self.spent(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Stop if the budget is used up."""
        trainer.should_stop = trainer.should_stop or self.spent(trainer)
