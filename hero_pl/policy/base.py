"""What a policy is: weights and a chat template that can sample actions and score them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from hero_pl.errors import ConfigError
from hero_pl.types import FinishReason

if TYPE_CHECKING:
    from hero_pl.chat.actions import ActionParser
    from hero_pl.chat.template import ChatTemplate


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
        constraint: Makes the constraint of the next action of a conversation, given by its number; default: none.
            Log-probabilities are then those under the constraint.
    """

    temperature: float = 1.0
    max_action_tokens: int = 256
    constraint: Callable[[int], Constraint] | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0.0:
            raise ConfigError(f"temperature={self.temperature}: must be 0 (greedy) or positive.")
        if self.max_action_tokens < 1:
            raise ConfigError(f"max_action_tokens={self.max_action_tokens}: must be at least 1.")


@dataclass(frozen=True, slots=True)
class SampledAction:
    """One sampled reply."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probability of each id at the sampling temperature, in nats (at 1.0 if greedy)."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One sequence to score, with the spans of action ids inside it."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """``(start, stop)`` of each action in ``ids``; its logits are those at positions ``start - 1 .. stop - 2``."""
    conversation: int = 0
    """Rows of one conversation may be expected to begin alike."""

    @property
    def read(self) -> list[int]:
        """Positions whose logits predict the action tokens."""
        return [position for start, stop in self.spans for position in range(start - 1, stop - 1)]

    @property
    def scored(self) -> int:
        """Number of action tokens."""
        return sum(stop - start for start, stop in self.spans)


class Session(ABC):
    """Many conversations played at once; keeps whatever state makes the next call cheap."""

    @abstractmethod
    def act(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> list[SampledAction]:
        """Sample one action for each named conversation.

        Args:
            rows: Numbers of the conversations that go on; the others are over for good.
            prompts: The whole decision context of each; what was fed before is not computed again.
        """


class Sampler(ABC):
    """Draws actions from a policy."""

    @abstractmethod
    def open(self, policy: Policy, sampling: Sampling, seeds: Sequence[int], weights: str = "live") -> Session:
        """Start ``len(seeds)`` conversations; equal seeds and prompts draw equal actions.

        Args:
            policy: Loaded.
            sampling: Settings for all of them.
            seeds: One per conversation, so that no two share their randomness.
            weights: Which weights act: ``live`` or ``initial``.
        """


class Policy(nn.Module, ABC):
    """Weights, tokenizer and dialect of one agent.

    A policy is cheap to construct; :meth:`load` reads or makes the weights, after all other settings were checked.
    """

    template: ChatTemplate
    parser: ActionParser
    sampler: Sampler
    max_length: int
    """Tokens that fit into the context."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 0
        """Optimizer steps that the weights have seen."""

    @abstractmethod
    def load(self) -> None:
        """Read or make tokenizer and weights; calling it again does nothing.

        Raises:
            PolicyError: They cannot be used; the message says what to do.
        """

    @abstractmethod
    def score(self, rows: Sequence[ScoreRow], weights: str = "live") -> Tensor:
        """Logits that predict each action token.

        Args:
            rows: Sequences with their action spans.
            weights: ``live`` (gradients flow) or the name of a frozen copy.

        Returns:
            ``(sum of row.scored, vocab)`` in the order of rows and spans.
        """

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Evaluation mode without gradients; the former mode comes back afterwards, also after an error."""
        import torch

        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(was_training)
