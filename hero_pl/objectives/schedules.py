"""Schedules: settings that change during training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from hero_pl.errors import ConfigError
from hero_pl.losses.normalize import Mode, Normalization, check_normalization
from hero_pl.objectives.base import Normalize

Shape = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A value over optimizer steps: a warm-up from 0, then ``initial``, then a transition to ``final``.

    It depends only on the policy's version (the number of optimizer steps taken), which is in checkpoints, so a resumed
    run continues the schedule.

    Args:
        initial: Value after the warm-up.
        final: Value after the transition; default: ``initial``.
        shape: ``constant`` stays at ``initial``; ``linear`` or ``cosine`` (slow at both ends) changes to ``final``.
        begin: Optimizer steps before the transition.
        steps: Optimizer steps of the transition; required for ``linear`` and ``cosine``.
        warmup_steps: Optimizer steps over which the value rises linearly from 0, like the learning rate: the first step
            has ``1 / warmup_steps`` of it. 0: no warm-up.

    Example:
        >>> weight = Schedule(1.0, 0.0, "linear", begin=2, steps=4)
        >>> [weight.at(step) for step in range(8)]
        [1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    initial: float
    final: float | None = None
    shape: Shape = "constant"
    begin: int = 0
    steps: int = 0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ConfigError(f"{self}: expected shape to be one of {', '.join(get_args(Shape))}.")
        if not all(math.isfinite(value) for value in (self.initial, self._final)):
            raise ConfigError(f"{self}: expected finite numbers for initial and final.")
        if min(self.begin, self.steps, self.warmup_steps) < 0:
            raise ConfigError(f"{self}: expected begin, steps and warmup_steps of at least 0 optimizer steps.")
        moves = self.shape != "constant"
        if moves != (self.steps > 0) or moves != (self.final is not None) or (self.begin and not moves):
            raise ConfigError(
                f"{self}: linear and cosine need final and steps (of the transition); constant accepts neither."
            )

    @property
    def _final(self) -> float:
        return self.initial if self.final is None else self.final

    def at(self, step: int) -> float:
        """The value for the optimizer step with this number, from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.shape == "constant":
            return warm * self.initial
        way = min(max((step - self.begin) / self.steps, 0.0), 1.0)
        if self.shape == "cosine":
            way = (1.0 - math.cos(math.pi * way)) / 2.0
        return warm * ((1.0 - way) * self.initial + way * self._final)

    def range(self) -> tuple[float, float]:
        """Minimum and maximum of the schedule."""
        ends = [self.initial, self._final, *([0.0] if self.warmup_steps else [])]
        return min(ends), max(ends)

    def has_ended_at_zero(self, step: int) -> bool:
        """Whether the value is 0 at this step and all later ones."""
        return self._final == 0.0 and step >= self.begin + self.steps


def scheduled(value: float | Schedule) -> Schedule:
    """Convert a number to a constant schedule."""
    return value if isinstance(value, Schedule) else Schedule(float(value))


@dataclass(frozen=True, slots=True)
class Blend:
    """A transition between normalizations, such as from token means to turn means (TurnOPD, arXiv 2607.05804).

    The coefficient of a token is ``(1 - share) * c + share * c_toward``; see ``losses.normalize.Normalization``.

    Args:
        toward: The other normalization.
        share: Its weight, in [0, 1].
    """

    toward: Normalize
    share: Schedule

    def __post_init__(self) -> None:
        low, high = self.share.range()
        if low < 0.0 or high > 1.0:
            raise ConfigError(f"blend: share of {self.toward} is {low:g} to {high:g}; expected values in [0, 1].")


def normalization_at(normalize: Normalize, blend: Blend | None, step: int) -> Mode:
    """Normalization of the loss at an optimizer step."""
    if blend is None:
        return normalize
    share = blend.share.at(step)
    return {normalize: 1.0 - share, blend.toward: share}


def check_blend(normalize: Normalize, blend: Blend | None, constant: float | None) -> None:
    """Check the normalization of an objective, or a blend of two, together with the constant.

    Raises:
        ConfigError: A constant is missing or not used, or both normalizations are the same.
    """
    if blend is not None and blend.toward == normalize:
        raise ConfigError(f"blend: toward is {blend.toward}, the same as normalize. Set another one, or remove blend.")
    modes = [normalize] if blend is None else [normalize, blend.toward]
    for mode in modes:
        check_normalization(mode, constant)
    if constant is not None and Normalization.SEQ_MEAN_TOKEN_SUM_NORM not in modes:
        raise ConfigError(
            f"constant={constant} with normalize={' and '.join(modes)}: only {Normalization.SEQ_MEAN_TOKEN_SUM_NORM} "
            "divides by a constant. Remove it, or set this normalization."
        )
