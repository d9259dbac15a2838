"""A policy whose replies are written down: tests and demonstrations run without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hero_pl.chat.actions import ActionParser, PlainText
from hero_pl.chat.template import ChatTemplate
from hero_pl.errors import ConfigError
from hero_pl.policy.base import Policy
from hero_pl.policy.sampling import SampledPolicy, Sampler, Sampling, Session
from hero_pl.types import FinishReason, SampledAction, ScoreRow

Script = Callable[[str, int], str]
"""Decoded decision context and seed of the conversation in, reply out."""


class ScriptedPolicy(Policy):
    """Says what its script says; scores tokens with a trainable table of bigrams.

    Args:
        script: Replies in order (the last one repeats), or a function of the decoded context and the seed.
        template: Default: one id per byte (:func:`hero_pl.chat.byte_tokenizer.byte_tokenizer`).
        parser: Dialect of actions.
    """

    def __init__(
        self,
        script: list[str] | Script = ("",),  # type: ignore[assignment]
        template: ChatTemplate | None = None,
        parser: ActionParser | None = None,
    ) -> None:
        super().__init__()
        self.script = script
        self.parser = parser or PlainText()
        self.sampler = ScriptedSampler()
        self.max_length = 1 << 20
        if template is not None:
            self.template = template

    def load(self) -> None:
        """Make the template and the table."""
        if hasattr(self, "table"):
            return
        if not hasattr(self, "template"):
            from hero_pl.chat.byte_tokenizer import byte_tokenizer

            self.template = ChatTemplate(byte_tokenizer())
        vocabulary = len(self.template.tokenizer)
        self.table = nn.Embedding(vocabulary, vocabulary)
        nn.init.zeros_(self.table.weight)

    def score(self, rows: Sequence[ScoreRow], weights: str = "live") -> Tensor:
        """Logits of the bigram table; only ``live`` weights exist."""
        previous = [row.ids[i - 1] for row in rows for start, stop in row.spans for i in range(start, stop)]
        return self.table(torch.tensor(previous, dtype=torch.long, device=self.table.weight.device))  # type: ignore[no-any-return]

    def reply(self, context: str, turn: int, seed: int) -> str:
        """The scripted reply to a decoded context."""
        if callable(self.script):
            return self.script(context, seed)
        return self.script[min(turn, len(self.script) - 1)]


class ScriptedSampler(Sampler):
    """Encodes what the script says."""

    def open(
        self, policy: SampledPolicy, sampling: Sampling, seeds: Sequence[int] = (), weights: str = "live"
    ) -> ScriptedSession:
        """See :meth:`Sampler.open`; ``weights`` does not matter.

        Raises:
            ConfigError: Another kind of policy.
        """
        if not isinstance(policy, ScriptedPolicy):
            raise ConfigError(
                f"ScriptedSampler samples from a ScriptedPolicy, not from a {type(policy).__name__}. A "
                "HuggingFacePolicy takes CachedSampler; remove the setting sampler to use the policy's own."
            )
        return ScriptedSession(policy, sampling, seeds)


class ScriptedSession(Session):
    """Counts the turns of each conversation."""

    def __init__(self, policy: ScriptedPolicy, sampling: Sampling, seeds: Sequence[int]) -> None:
        self.policy, self.limit = policy, sampling.max_action_tokens
        self.seeds: list[int] = []
        self.turns: dict[int, int] = {}
        """So far, by open row."""
        self.asked: dict[int, tuple[int, ...]] = {}
        self.open(seeds)

    def open(self, seeds: Sequence[int]) -> list[int]:
        """See :meth:`Session.open`."""
        rows = list(range(len(self.seeds), len(self.seeds) + len(seeds)))
        self.seeds += seeds
        self.turns.update(dict.fromkeys(rows, 0))
        return rows

    def submit(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        """See :meth:`Session.submit`."""
        self.asked.update(zip(rows, prompts, strict=True))

    def finished(self) -> list[tuple[int, SampledAction]]:
        """See :meth:`Session.finished`; every token has probability 1."""
        drawn = [(row, self._speak(row, prompt)) for row, prompt in self.asked.items()]
        self.asked = {}
        return drawn

    def _speak(self, row: int, prompt: tuple[int, ...]) -> SampledAction:
        context = str(self.policy.template.tokenizer.decode(list(prompt)))
        ids = self.policy.dialect.reply_ids(self.policy.reply(context, self.turns[row], self.seeds[row]))
        self.turns[row] += 1
        finish = FinishReason.STOP if len(ids) <= self.limit else FinishReason.LENGTH
        ids = ids[: self.limit]
        return SampledAction(ids, (0.0,) * len(ids), finish, self.policy.version)

    def close(self, rows: Sequence[int]) -> None:
        """See :meth:`Session.close`."""
        for row in rows:
            del self.turns[row]
            self.asked.pop(row, None)
