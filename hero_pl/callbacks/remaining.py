"""How much of a run is done, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch.callbacks import Timer

from hero_pl.callbacks.held_out import HeldOut
from hero_pl.callbacks.turn_budget import TurnBudget


def share_done(trainer: Any, turns: int) -> float | None:
    """Share of the run that is done by the limit that is reached first; ``None`` for a run without a limit.

    Args:
        trainer: Trainer with limits on steps, epochs and time, and with the turn budget among its callbacks.
        turns: Training turns used.
    """
    shares = [turns / one.max_turns for one in trainer.callbacks if isinstance(one, TurnBudget) and one.max_turns]
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    if (trainer.max_epochs or 0) > 0:
        batches = trainer.num_training_batches
        within = trainer.fit_loop.epoch_loop.batch_progress.current.completed / batches if batches else 0.0
        shares.append((trainer.current_epoch + min(1.0, within)) / trainer.max_epochs)
    for one in trainer.callbacks:
        if isinstance(one, Timer) and (left := one.time_remaining()) is not None:
            shares.append(one.time_elapsed() / max(1e-9, one.time_elapsed() + left))
    return min(1.0, max(shares)) if shares else None


def evaluations_left(trainer: Any, turns: int) -> int:
    """Held-out evaluations that are still to come, the one after training included."""
    held_out = next((one for one in trainer.callbacks if isinstance(one, HeldOut) and one.episodes), None)
    if held_out is None:
        return 0
    return 1 + sum(mark > turns for mark in held_out.at_turns)


def how_it_ended(trainer: Any, turns: int) -> str:
    """Which limit ended training, for the end of a sentence; empty where it was none of them."""
    if any(isinstance(one, TurnBudget) and one.max_turns and turns >= one.max_turns for one in trainer.callbacks):
        return ": the turn budget is used"
    if 0 < trainer.max_steps <= trainer.global_step:
        return ": max_steps is reached"
    if 0 < (trainer.max_epochs or 0) <= trainer.current_epoch:
        return ": max_epochs is reached"
    return ""


class Remaining:
    """Estimates the rest of a run from the time that its steps and its evaluations have taken in this process.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.started = clock()
        self.evaluating_s = 0.0
        """Time that evaluations have taken since training began."""
        self.evaluations: list[float] = []
        """Seconds of each evaluation, the one before training included."""
        self._first: float | None = None
        self._evaluation: float | None = None
        self._training = False

    def begin(self, share: float | None) -> None:
        """Training begins; a resumed run begins with a share that is done."""
        self._first, self.started, self.evaluating_s, self._training = share, self.clock(), 0.0, True

    def evaluation(self, finished: int, total: int) -> None:
        """Progress of an evaluation."""
        if self._evaluation is None or finished == 0:
            self._evaluation = self.clock()
        if finished == total:
            took = self.clock() - self._evaluation
            self.evaluations.append(took)
            self.evaluating_s += took if self._training else 0.0
            self._evaluation = None

    @property
    def elapsed(self) -> float:
        """Seconds since training began."""
        return self.clock() - self.started

    def left(self, share: float | None, evaluations: int) -> float | None:
        """Seconds until the run ends; ``None`` where nothing is known yet.

        Args:
            share: Share of the run that is done, in [0, 1].
            evaluations: That are still to come.
        """
        if share is None or self._first is None or share <= self._first:
            return None
        training = (self.elapsed - self.evaluating_s) / (share - self._first) * (1.0 - share)
        each = sum(self.evaluations) / len(self.evaluations) if self.evaluations else 0.0
        return training + evaluations * each


def clock_text(seconds: float) -> str:
    """Hours, minutes and seconds.

    Example:
        >>> clock_text(3725.2)
        '1:02:05'
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
