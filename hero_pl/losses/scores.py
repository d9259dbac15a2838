"""Scores of N action tokens by one side: logits, or the last hidden states that they are projected from.

Logits over a large vocabulary need much more memory than hidden states, and autograd keeps several copies of them. If
the output projection is a plain matrix, losses get the hidden states and project a few tokens at a time. What they need
of the vocabulary (a log-probability, an entropy, a divergence) is one number per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hero_pl.errors import TokenAlignmentError
from hero_pl.losses.base import at_temperature, log_probabilities, of_ids


@dataclass(frozen=True, slots=True)
class Scores:
    """Logits of N action tokens, or their last hidden states with the output projection."""

    values: Tensor
    """``(N, vocab)`` logits; with ``head``, ``(N, width)`` hidden states. Gradients flow."""
    head: Tensor | None = None
    """``(vocab, width)``: logits are ``values @ head.T``, with no bias, cap or scale. Gradients flow."""
    at_once: int = 0
    """Tokens whose logits exist at the same time; 0 for all."""
    temperature: float = 1.0
    """At which the actions were sampled: logits are divided by it."""
    normalized: bool = False
    """``values`` are tempered log-probabilities already, so that no softmax is needed."""

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @property
    def vocabulary(self) -> int:
        """Entries of each row of logits."""
        return int((self.values.shape[1:] if self.head is None else self.head.shape)[0])

    def at(self, where: Tensor) -> Scores:
        """The scores of some tokens: a mask, or indices."""
        return replace(self, values=self.values[where])

    def detach(self) -> Scores:
        """The same as constants."""
        return replace(self, values=self.values.detach(), head=None if self.head is None else self.head.detach())

    def logits(self, part: slice = slice(None), room: Tensor | None = None) -> Tensor:
        """Tempered logits ``(tokens of part, vocab)``; with ``room`` from :meth:`room` they are made there."""
        values = self.values[part]
        if self.normalized:
            return values
        if room is not None and self.head is not None:
            return torch.mm(values, self.head.T, out=room[: len(values)]).div_(self.temperature)
        return at_temperature(values if self.head is None else values @ self.head.T, self.temperature)

    def room(self) -> Tensor | None:
        """Memory for the logits of one part after the other, where it is safe to write there (without gradients).

        New memory of this size costs a fifth of the product that is written to it.
        """
        if self.head is None or self.values.dtype not in (torch.float32, torch.float64):
            return None
        if torch.is_autocast_enabled(self.values.device.type):
            return None
        return self.values.new_empty(min(self.at_once or len(self), len(self)), self.vocabulary)

    def log_probs(self, part: slice = slice(None)) -> Tensor:
        """Their log-probabilities ``(tokens of part, vocab)``, in at least float32."""
        return self.values[part] if self.normalized else log_probabilities(self.logits(part))

    def parts(self) -> Iterator[slice]:
        """Tokens that are projected together."""
        size = self.at_once or max(len(self), 1)
        return (slice(start, start + size) for start in range(0, len(self), size))

    @torch.no_grad()
    def measure(self, of_log_probs: Callable[[Tensor], Tensor]) -> Tensor:
        """One number per token from its log-probabilities over the vocabulary, in parts and without gradient.

        Args:
            of_log_probs: Function from ``(n, vocab)`` to ``(n,)``.
        """
        values = [of_log_probs(self.log_probs(part)) for part in self.parts()]
        return torch.cat(values) if values else self.values.new_zeros(0, dtype=at_least_float32(self.values.dtype))

    def of_actions(self, action_ids: Tensor) -> Tensor:
        """Log-probabilities ``(N,)`` of the sampled ids, in nats; gradients flow.

        If the logits are computed in parts, they are computed again in the backward pass instead of being kept.

        Args:
            action_ids: ``(N,)`` sampled ids.

        Raises:
            TokenAlignmentError: There is not exactly one id per token.
        """
        return self._of_actions(action_ids, False)[0]

    def of_actions_and_best(self, action_ids: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`of_actions`, and the most likely ids ``(N,)``."""
        return self._of_actions(action_ids, True)

    def _of_actions(self, action_ids: Tensor, with_best: bool) -> tuple[Tensor, Tensor]:
        if action_ids.shape != self.values.shape[:1]:
            raise TokenAlignmentError(
                f"{len(self)} tokens are scored, and action ids have shape {tuple(action_ids.shape)}. "
                "There must be exactly one sampled id per token."
            )
        if self.head is not None and 0 < self.at_once < len(self):
            found: tuple[Tensor, Tensor] = _ProjectedLogProbs.apply(  # type: ignore[no-untyped-call]
                self.values, self.head, action_ids, self.at_once, self.temperature, with_best
            )
            return found
        log_q = self.log_probs()
        return of_ids(log_q, action_ids), log_q.detach().argmax(-1) if with_best else action_ids[:0]


class _ProjectedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, action_ids: Tensor, at_once: int, temperature: float, with_best: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden, head, action_ids)
        ctx.at_once, ctx.temperature = at_once, temperature
        scores = Scores(hidden, head, at_once, temperature)
        best = torch.empty_like(action_ids if with_best else action_ids[:0])
        log_probs = hidden.new_empty(hidden.shape[0], dtype=at_least_float32(hidden.dtype))
        for part in scores.parts():
            log_q = scores.log_probs(part)
            log_probs[part] = of_ids(log_q, action_ids[part])
            if with_best:
                best[part] = log_q.argmax(-1)
        ctx.mark_non_differentiable(best)
        return log_probs, best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, action_ids = ctx.saved_tensors
        scores = Scores(hidden, head, ctx.at_once, ctx.temperature)
        slope = (slope / ctx.temperature).unsqueeze(-1)
        gradient = ProjectionGradient(hidden, head, *ctx.needs_input_grad[:2])
        for part in scores.parts():
            q = scores.log_probs(part).exp_()
            of_logits = q.mul_(-slope[part])  # d log q(a) / dz = 1[a] - q
            of_logits.scatter_add_(-1, action_ids[part].unsqueeze(-1), slope[part].to(q.dtype))
            gradient.add(part, of_logits)
        return *gradient.result(), None, None, None, None


class ProjectionGradient:
    """Gathers the gradient of hidden states and output projection from that of the logits, part by part.

    Args:
        hidden: ``(N, width)``.
        head: ``(vocab, width)``.
        of_hidden: Whether the gradient of ``hidden`` is wanted.
        of_head: Whether the gradient of ``head`` is wanted.
    """

    def __init__(self, hidden: Tensor, head: Tensor, of_hidden: bool, of_head: bool) -> None:
        self._hidden, self._head = hidden, head
        self._of_hidden = torch.empty_like(hidden) if of_hidden else None
        # many small contributions: sum them in at least float32, for any dtype of the head
        self._of_head = torch.zeros_like(head, dtype=at_least_float32(hidden.dtype)) if of_head else None

    def add(self, part: slice, of_logits: Tensor) -> None:
        """Add ``(tokens of part, vocab)``; each part comes once."""
        of_logits = of_logits.to(self._hidden.dtype)
        if self._of_hidden is not None:
            self._of_hidden[part] = of_logits @ self._head
        if self._of_head is None:
            return
        if of_logits.dtype == self._of_head.dtype:
            self._of_head.addmm_(of_logits.T, self._hidden[part])  # without a second matrix of that size
        else:
            self._of_head.add_(of_logits.T @ self._hidden[part])

    def result(self) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of hidden states and head, ``None`` where not wanted."""
        return self._of_hidden, None if self._of_head is None else self._of_head.to(self._head.dtype)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which losses are computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32
