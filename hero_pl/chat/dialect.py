"""The part of a policy that most components need: how its prompts are built and its replies parsed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hero_pl.chat.encode import scrub
from hero_pl.chat.reasoning import reasoning_markers

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
        """Ids of a reply that nobody sampled (a label, a corrected action), as a model of this template writes it.

        Markers of reasoning and of calls become control ids where the tokenizer has such ids. All text between them
        counts as outside text: an argument may contain any marker. The reply ends with the id that the template writes
        there.
        """
        text = scrub(text)
        markers, rest = reasoning_markers(text, self.template.opens_reasoning)
        markers += [(rest + start, rest + stop) for start, stop in self.parser.markers(text[rest:])]
        ids = self.template.encoder.encode_reply(text, markers, after=self.template.before_reply)
        return (*ids, self.template.end_id)
