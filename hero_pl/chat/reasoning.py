"""The reasoning in a reply: where it ends, and whether it was ever closed.

A reply may reason before it acts. What is inside the reasoning is private: no user, tool or environment sees it, and a
reply that was cut inside it is no action at all. Some templates open the reasoning themselves, at the end of the
prompt; then the reply holds only its end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

ReasoningMode: TypeAlias = Literal["keep", "strip", "refuse"]
"""What later prompts hold of earlier reasoning: all that was sampled, what the template would show, or none allowed."""

THINKING, THINKING_END = "<think>", "</think>"
"""Around the reasoning of a reply in most dialects."""

PAIRS = (
    (THINKING, THINKING_END),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
)
"""Opening and closing words of reasoning."""

UNFINISHED = "The reply ended inside its reasoning, before any action."


def reasoning_end(reply: str) -> int:
    """Place behind the last word that closes reasoning; 0 if there is none.

    Example:
        >>> reasoning_end("<think>tea?</think>search[tea]")
        19
    """
    return max((place + len(end) for _, end in PAIRS if (place := reply.rfind(end)) >= 0), default=0)


def without_thinking(reply: str) -> str:
    """What follows the last word that closes reasoning; the whole reply if there is none.

    Example:
        >>> without_thinking("<think>They want tea.</think>search[tea]")
        'search[tea]'
    """
    return reply[reasoning_end(reply) :]


def inside_reasoning(text: str, opened: bool = False) -> bool:
    """Whether ``text`` ends inside reasoning.

    Args:
        text: A reply, or a prompt.
        opened: Whether the prompt before it has opened the reasoning already.

    Example:
        >>> inside_reasoning("<think>They want"), inside_reasoning("They want", opened=True), inside_reasoning("Tea?")
        (True, True, False)
    """
    end = reasoning_end(text)
    return (opened and not end) or any(start in text[end:] for start, _ in PAIRS)


def reasoning_ids(ids: Sequence[int], spell: Callable[[Sequence[int]], str], with_blanks: bool = False) -> int:
    """How many of the sampled ids are reasoning, the word that closes it included; 0 if there is none.

    Args:
        ids: A reply.
        spell: Their text (:meth:`hero_pl.chat.encode.Encoder.spell`).
        with_blanks: Count the blank ids behind the reasoning, too.
    """
    end = reasoning_end(spell(ids))
    if not end:
        return 0
    # the text of a longer prefix has closed the reasoning as well, hence bisection
    count = bisect_left(range(len(ids) + 1), True, key=lambda size: reasoning_end(spell(ids[:size])) >= end)
    while with_blanks and count < len(ids) and not spell(ids[count : count + 1]).strip():
        count += 1
    return count


def reasoning_pair(source: str) -> tuple[str, str]:
    """The words around reasoning that the source of a template knows, else the usual ones."""
    return next((pair for pair in PAIRS if pair[1] in source), PAIRS[0])
