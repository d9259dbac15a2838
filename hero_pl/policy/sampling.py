"""The interface between rollouts and samplers, which run in this process or on a server.

A sampler opens a session; a session has rows, one per conversation. A row is asked for its next action with
:meth:`Session.submit`, and :meth:`Session.finished` hands out what has been drawn since. A sampler in this process
draws all that was asked in one batch; one behind a network may answer row by row, in any order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hero_pl.errors import ConfigError
from hero_pl.types import SampledAction

if TYPE_CHECKING:
    from torch import Tensor

    from hero_pl.chat.template import ChatTemplate
    from hero_pl.policy.kept_rows import KeptRow
    from hero_pl.policy.network import Network


class Constraint(ABC):
    """A constraint on one reply: the ids that are allowed next."""

    @abstractmethod
    def allow(self, logits: Tensor) -> Tensor:
        """``(vocab,)`` logits with minus infinity for every id that is not allowed next; the input is not changed."""

    @abstractmethod
    def accept(self, token: int) -> None:
        """Advance by the id that was sampled."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings for sampling actions.

    Args:
        temperature: Temperature of the softmax; 0 means greedy.
        max_action_tokens: Maximum number of tokens per action; a longer reply is cut and recorded as ``length``.
        constraint: Creates the constraint of the next action of a conversation, given by its row; default: none.
            Log-probabilities are then those with the constraint.
    """

    temperature: float = 1.0
    max_action_tokens: int = 256
    constraint: Callable[[int], Constraint] | None = None

    @property
    def divisor(self) -> float:
        """Divisor of the logits for the recorded log-probabilities: the temperature, or 1 if greedy."""
        return self.temperature or 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature={self.temperature}: expected 0 (greedy) or a positive, finite number.")
        if self.max_action_tokens < 1:
            raise ConfigError(f"max_action_tokens={self.max_action_tokens}: expected at least 1.")


class SampledPolicy(Protocol):
    """The part of :class:`~hero_pl.policy.base.Policy` that a sampler uses."""

    version: int
    template: ChatTemplate
    network: Network | None


class Session(ABC):
    """Many concurrent conversations, with the cached state of each."""

    @abstractmethod
    def open(self, seeds: Sequence[int]) -> list[int]:
        """Start one conversation per seed, at any time, and return their rows: numbers that are never used again."""

    @abstractmethod
    def submit(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        """Request the next action of open rows without a pending request; other rows do not change.

        Args:
            rows: Numbers of the conversations.
            prompts: The whole decision context of each; cached parts are not computed again.
        """

    @abstractmethod
    def finished(self) -> list[tuple[int, SampledAction]]:
        """Wait until at least one submitted row has its action; return all ``(row, action)`` that are ready.

        A failure that concerns a request is an action with ``FinishReason.ERROR``; nothing is raised for it.
        """

    @abstractmethod
    def close(self, rows: Sequence[int]) -> None:
        """End conversations and free their memory; pending actions are dropped."""

    def act(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> list[SampledAction]:
        """Submit and wait for all: one action per row, in the order of ``rows``."""
        self.submit(rows, prompts)
        drawn: dict[int, SampledAction] = {}
        while len(drawn) < len(rows):
            drawn.update(self.finished())
        return [drawn[row] for row in rows]


def in_process(sampler: object) -> bool:
    """Whether a sampler runs the network of the policy. An object with the methods of a sampler is assumed to do so."""
    return bool(getattr(sampler, "in_process", True))


class Sampler(ABC):
    """Samples actions from a policy."""

    in_process = True
    """Whether it runs the network of the policy; others may sample while the policy is trained."""

    @abstractmethod
    def open(
        self, policy: SampledPolicy, sampling: Sampling, seeds: Sequence[int] = (), weights: str = "live"
    ) -> Session:
        """Start a session; equal seeds and prompts give equal actions, independent of other rows.

        Args:
            policy: A policy with loaded weights.
            sampling: Settings for all of its conversations.
            seeds: One per conversation to start with, rows 0, 1, 2, and so on.
            weights: Weights to sample from: ``live`` or ``initial``.
        """

    def check(self, policy: SampledPolicy, weights: str = "live", constrained: bool = False) -> None:  # noqa: B027
        """Check that this sampler supports the settings, before weights are read.

        Args:
            policy: Policy; it need not be loaded.
            weights: Weights to sample from.
            constrained: Whether replies will be constrained.

        Raises:
            ConfigError: A setting is not supported; the message says why and what to change.
        """

    def keeping(self, rows: int, most_bytes: int | None = None) -> AbstractContextManager[None]:
        """Context in which the keys and values of the last ``rows`` conversations are kept when they end.

        A later session with the same weights does not run them again in a prompt that continues one of them. Does
        nothing where they cannot be kept.

        Args:
            rows: Number of conversations; the oldest makes room.
            most_bytes: Largest number of bytes that they take together; default: no limit.
        """
        return nullcontext()

    def kept_under(self, policy: SampledPolicy, weights: str) -> Sequence[KeptRow]:
        """What :meth:`keeping` has kept that these weights would make again."""
        return ()

    def forget(self) -> None:  # noqa: B027
        """Free the memory of what :meth:`keeping` has kept."""

    def sync(self, policy: SampledPolicy) -> None:  # noqa: B027
        """Update to the live weights of a policy; a sampler that reads them directly does nothing.

        Called before the first episode of a run, after a checkpoint was loaded, and after each batch with an optimizer
        step, when the step can be saved; never while a session waits for an action.

        Args:
            policy: Policy with the new weights and their ``version``.
        """
