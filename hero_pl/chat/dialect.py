"""How an agent reads and writes: all that most components need to know of a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hero_pl.chat.actions import ActionParser
    from hero_pl.chat.template import ChatTemplate


@dataclass(frozen=True, slots=True)
class Dialect:
    """Chat template, form of the actions and size of the context of one policy."""

    template: ChatTemplate
    parser: ActionParser
    max_length: int
    """Tokens that fit into the context."""

    def reply_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a reply that nobody sampled (a label, a corrected action), with the id that ends the turn."""
        return (*self.template.encoder.encode_untrusted(text), int(self.template.tokenizer.eos_token_id))
