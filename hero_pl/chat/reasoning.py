"""Find the reasoning in a reply: where it ends, and whether it was closed.

A reply may contain reasoning before the action. No user, tool or environment sees it, and a reply that was cut inside
its reasoning has no action. Some templates open the reasoning themselves, at the end of the prompt; then the reply
contains only the closing marker.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

ReasoningMode: TypeAlias = Literal["keep", "strip", "refuse"]
"""Earlier reasoning in later prompts: keep all of it, keep what the template shows, or refuse reasoning models."""

THINKING, THINKING_END = "<think>", "</think>"
"""Markers around the reasoning of a reply in most formats."""

PAIRS = (
    (THINKING, THINKING_END),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
)
"""Opening and closing markers of reasoning."""

UNFINISHED = "The reply ended inside its reasoning, before any action."


def reasoning_end(reply: str) -> int:
    """Index after the last marker that closes reasoning; 0 if there is none.

    Example:
        >>> reasoning_end("<think>tea?</think>search[tea]")
        19
    """
    return max((place + len(end) for _, end in PAIRS if (place := reply.rfind(end)) >= 0), default=0)


def without_thinking(reply: str) -> str:
    """The text after the last marker that closes reasoning; the whole reply if there is none.

    Example:
        >>> without_thinking("<think>They want tea.</think>search[tea]")
        'search[tea]'
    """
    return reply[reasoning_end(reply) :]


def inside_reasoning(text: str, opened: bool = False) -> bool:
    """Whether ``text`` ends inside reasoning.

    Args:
        text: A reply, or a prompt.
        opened: Whether the prompt before it already opened the reasoning.

    Example:
        >>> inside_reasoning("<think>They want"), inside_reasoning("They want", opened=True), inside_reasoning("Tea?")
        (True, True, False)
    """
    end = reasoning_end(text)
    return (opened and not end) or any(start in text[end:] for start, _ in PAIRS)


def answer_in(reply: str, begins: re.Pattern[str], opened: bool = False) -> str | None:
    """The answer in a reply, after its reasoning; ``None`` if the reply ends inside its reasoning.

    An answer may quote the markers: a text that begins like an answer has no reasoning before it.

    Args:
        reply: The decoded reply.
        begins: Matches the beginning of an answer.
        opened: Whether the prompt already opened the reasoning; then the answer follows a closing marker.

    Example:
        >>> answer_in("<think>Is it {}?</think>{}", re.compile("{")), answer_in("<think>Is it {}", re.compile("{"))
        ('{}', None)
        >>> answer_in('{"says": "</think> stands there twice"}', re.compile("{"))
        '{"says": "</think> stands there twice"}'
    """
    if not opened and begins.match(reply):
        return reply
    answer = without_thinking(reply)
    if len(answer) < len(reply) and begins.match(answer):
        return answer
    return None if inside_reasoning(reply, opened) else answer


def reasoning_markers(reply: str, opened: bool = False) -> tuple[list[tuple[int, int]], int]:
    """Find the markers of the reasoning that a reply begins with; the same words elsewhere in it are text.

    Args:
        reply: A reply.
        opened: Whether the prompt before it already opened the reasoning.

    Returns:
        Start and end index of each marker (at most two), and the index where the reasoning ends: the length of the
        reply if it never does, 0 if there is none.

    Example:
        >>> reasoning_markers("<think>tea?</think>say[</think>]")
        ([(0, 7), (11, 19)], 19)
    """
    start = len(reply) - len(reply.lstrip())
    pair = next((pair for pair in PAIRS if reply.startswith(pair[0], start)), None)
    if pair is None and not opened:
        return [], 0
    closings = [closing for _, closing in ([pair] if pair else PAIRS)]
    ends = [(place, place + len(closing)) for closing in closings if (place := reply.find(closing)) >= 0]
    found = [(start, start + len(pair[0]))] if pair else []
    if not ends:
        return found, len(reply) if pair else 0
    return [*found, min(ends)], min(ends)[1]


def reasoning_ids(ids: Sequence[int], spell: Callable[[Sequence[int]], str], with_blanks: bool = False) -> int:
    """Number of sampled ids that are reasoning, including the closing marker; 0 if there is none.

    Args:
        ids: Ids of a reply.
        spell: Returns the text of ids (:meth:`hero_pl.chat.encode.Encoder.spell`).
        with_blanks: Also count ids of white space after the reasoning.
    """
    end = reasoning_end(spell(ids))
    if not end:
        return 0
    # if a prefix has closed the reasoning, every longer one has too: use bisection
    count = bisect_left(range(len(ids) + 1), True, key=lambda size: reasoning_end(spell(ids[:size])) >= end)
    while with_blanks and count < len(ids) and not spell(ids[count : count + 1]).strip():
        count += 1
    return count


def reasoning_pair(source: str) -> tuple[str, str]:
    """The reasoning markers that occur in the source of a template, else the usual ones."""
    return next((pair for pair in PAIRS if pair[1] in source), PAIRS[0])
