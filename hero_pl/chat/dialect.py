"""The part of a policy that most components need: how its prompts are built and its replies parsed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hero_pl.chat.actions import ActionParser
    from hero_pl.chat.template import ChatTemplate


@dataclass(frozen=True, slots=True)
class Dialect:
    """Chat template, action parser and context length of a policy."""

    template: ChatTemplate
    parser: ActionParser
    max_length: int
    """Maximum context length, in tokens."""

    def reply_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a reply that nobody sampled (a label, a corrected action), with the id that ends the turn."""
        return (*self.template.encoder.encode_untrusted(text), int(self.template.tokenizer.eos_token_id))
