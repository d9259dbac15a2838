"""The seam between rollouts and whatever draws tokens: this process, or a server.

A sampler opens a session; a session has rows, one per conversation. A row is asked for its next action with
:meth:`Session.submit`, and :meth:`Session.finished` hands out what has been drawn since. A sampler in this process
draws all that was asked in one batch; one behind a network may answer row by row, in any order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hero_pl.errors import ConfigError
from hero_pl.types import SampledAction

if TYPE_CHECKING:
    from torch import Tensor

    from hero_pl.chat.template import ChatTemplate
    from hero_pl.policy.network import Network


class Constraint(ABC):
    """What one reply may be: says which ids may come next."""

    @abstractmethod
    def allow(self, logits: Tensor) -> Tensor:
        """``(vocab,)`` logits with minus infinity for every id that may not come next; the given ones stay."""

    @abstractmethod
    def accept(self, token: int) -> None:
        """Take in the id that was drawn."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How actions are drawn.

    Args:
        temperature: Of the softmax; 0 means greedy.
        max_action_tokens: Tokens per action at most; a longer reply is cut and recorded as ``length``.
        constraint: Makes the constraint of the next action of a conversation, given by its row; default: none.
            Log-probabilities are then those under the constraint.
    """

    temperature: float = 1.0
    max_action_tokens: int = 256
    constraint: Callable[[int], Constraint] | None = None

    @property
    def divisor(self) -> float:
        """What logits are divided by for the recorded log-probabilities: the temperature, or 1 if greedy."""
        return self.temperature or 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature={self.temperature}: must be 0 (greedy) or positive, and finite.")
        if self.max_action_tokens < 1:
            raise ConfigError(f"max_action_tokens={self.max_action_tokens}: must be at least 1.")


class SampledPolicy(Protocol):
    """What a sampler may ask of the :class:`~hero_pl.policy.base.Policy` that it draws from."""

    version: int
    template: ChatTemplate
    network: Network | None


class Session(ABC):
    """Many conversations played at once; keeps whatever state makes the next call cheap."""

    @abstractmethod
    def open(self, seeds: Sequence[int]) -> list[int]:
        """Start one conversation per seed, at any time, and return their rows: numbers that are never used again."""

    @abstractmethod
    def submit(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        """Ask for the next action of open rows that wait for none; the others stay as they are.

        Args:
            rows: Numbers of the conversations.
            prompts: The whole decision context of each; what was fed before is not computed again.
        """

    @abstractmethod
    def finished(self) -> list[tuple[int, SampledAction]]:
        """Wait until at least one row that was asked has its action; return all ``(row, action)`` there are.

        A failure that concerns a request is an action with ``FinishReason.ERROR``; nothing is raised for it.
        """

    @abstractmethod
    def close(self, rows: Sequence[int]) -> None:
        """End conversations and free what they hold; an action that a row still waits for is dropped."""

    def act(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> list[SampledAction]:
        """Ask and wait for all: one action per row, in the order of ``rows``."""
        self.submit(rows, prompts)
        drawn: dict[int, SampledAction] = {}
        while len(drawn) < len(rows):
            drawn.update(self.finished())
        return [drawn[row] for row in rows]


class Sampler(ABC):
    """Draws actions from a policy."""

    @abstractmethod
    def open(
        self, policy: SampledPolicy, sampling: Sampling, seeds: Sequence[int] = (), weights: str = "live"
    ) -> Session:
        """Start a session; equal seeds and prompts draw equal actions, whatever other rows there are.

        Args:
            policy: Loaded.
            sampling: Settings for all of its conversations.
            seeds: One per conversation to start with, rows 0, 1, 2, and so on.
            weights: Which weights act: ``live`` or ``initial``.
        """

    def check(self, policy: SampledPolicy, weights: str = "live", constrained: bool = False) -> None:  # noqa: B027
        """Refuse what this sampler cannot draw; before any weights are read.

        Args:
            policy: Need not be loaded.
            weights: Which weights are going to act.
            constrained: Whether replies are going to be constrained.

        Raises:
            ConfigError: With the reason and what to change.
        """

    def sync(self, policy: SampledPolicy) -> None:  # noqa: B027
        """Take over the live weights of a policy; a sampler that reads them where they are has nothing to do.

        Called before the first episode of a run, after a checkpoint was loaded and after each optimizer step, never
        while a session waits for an action.

        Args:
            policy: With its new weights and their ``version``.
        """
