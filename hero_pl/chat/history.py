"""One conversation as ids, turn by turn.

Most templates only append, so the next prompt is the previous one plus the sampled ids and the observation. Two kinds
rewrite history: those that drop the reasoning of earlier turns (followed with ``reasoning: strip``), and those that
move the system prompt or the tools. For these the conversation is rendered again at every turn, and the sampled ids are
inserted where the template has the replies; the kept ids of a reply are never re-encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hero_pl.chat.reasoning import inside_reasoning, reasoning_ids
from hero_pl.chat.render import Rendered
from hero_pl.chat.template import REPLY, ChatTemplate
from hero_pl.errors import PolicyError
from hero_pl.types import Message, Role

_THOUGHT = "HEROTHOUGHTOREH"
"""Placeholder for the reasoning of a reply while the template is rendered."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A reply and the observation after it."""

    action_ids: tuple[int, ...]
    observation: Message


class History:
    """The decision contexts of one episode.

    Args:
        template: Chat template of the policy.
        system_prompt: System prompt from the parser's ``describe``.
        first_observation: First observation of the episode.
        role: Role of that observation.
        tools: Schemas from the parser's ``describe``.
    """

    def __init__(
        self,
        template: ChatTemplate,
        system_prompt: str,
        first_observation: str,
        role: Role = "user",
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.template = template
        self._opening = template.opening(system_prompt, first_observation, role)
        self._tools = tuple(tools)
        self._steps: list[_Step] = []
        self.prompt_ids = template.first_prompt(system_prompt, first_observation, role, tools)
        """The current decision context."""
        self.rewritten_tokens = 0
        """Number of tokens of earlier contexts that are not a prefix of the next one and have to be computed again."""

    def append(self, action_ids: Sequence[int], observation: str, role: Role = "user") -> tuple[int, ...]:
        """Add a reply and its observation; returns the next decision context."""
        former = (*self.prompt_ids, *action_ids)
        if self.template.rewrites_history:
            message = self.template.observation_message(observation, role)
            self._steps.append(_Step(tuple(action_ids), message))
            self.prompt_ids = self._render()
            self.rewritten_tokens += len(former) - _common(former, self.prompt_ids)
        else:
            self.prompt_ids = self.template.next_prompt(self.prompt_ids, action_ids, observation, role)
        return self.prompt_ids

    def _render(self) -> tuple[int, ...]:
        """Render the whole conversation again, with the sampled ids in it."""
        opened, closed = self.template.reasoning_pair
        thoughts = [self._thought(step.action_ids) for step in self._steps]
        messages = list(self._opening)
        for i, step in enumerate(self._steps):
            thought = f"{opened}\n{_THOUGHT}{i}.\n{closed}\n\n" if thoughts[i] else ""
            messages += [Message("assistant", f"{thought}{REPLY}{i}."), step.observation]
        rest = self.template.renderer.render(messages, self._tools, True)
        ids: tuple[int, ...] = ()
        sampled: tuple[int, ...] | None = None
        for i, step in enumerate(self._steps):
            before, rest, kept = self._split(rest, i, opened)
            ids += self._encode(before, sampled)
            sampled = step.action_ids if kept else step.action_ids[thoughts[i] :]
            ids += sampled
        return ids + self._encode(rest, sampled)

    def _split(self, rest: Rendered, i: int, opened: str) -> tuple[Rendered, Rendered, bool]:
        """The text before reply ``i``, the text after it, and whether its reasoning is shown."""
        place, word = rest.text.find(f"{REPLY}{i}."), f"{REPLY}{i}."
        if place < 0:
            raise PolicyError(
                f"The chat template of {self.template.tokenizer.name_or_path!r} leaves out an earlier reply. Use a "
                "template that shows all replies of a conversation."
            )
        thought = rest.text.rfind(f"{_THOUGHT}{i}.", 0, place)
        start = place
        if thought >= 0:
            start = thought if self.template.opens_reasoning else rest.text.rfind(opened, 0, thought)
        head = Rendered(rest.text[:start], rest.marked[:start])
        return head, rest.tail(place + len(word)), thought >= 0

    def _encode(self, piece: Rendered, sampled: tuple[int, ...] | None) -> tuple[int, ...]:
        if sampled is None:
            return self.template.encoder.encode_rendered(piece.text, piece.marked)
        return self.template.encode_rest(sampled, piece)

    def _thought(self, action_ids: tuple[int, ...]) -> int:
        """Number of ids that are reasoning; 0 without ``reasoning: strip``."""
        if self.template.reasoning != "strip":
            return 0
        encoder = self.template.encoder
        bare = tuple(i for i in action_ids if i not in encoder.end_ids)
        if inside_reasoning(encoder.spell(bare), self.template.opens_reasoning):
            return len(bare)
        return reasoning_ids(bare, encoder.spell, with_blanks=True)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
