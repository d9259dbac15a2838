"""Select the sampled ids of a turn that are in the loss.

The difference between hinted teacher and student is often largest on the reasoning and on the first tokens of a reply.
Both can be left out. The range is found by decoding prefixes of the sampled ids; nothing is re-encoded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from hero_pl.chat.dialect import Dialect
from hero_pl.chat.reasoning import inside_reasoning, reasoning_ids
from hero_pl.errors import ConfigError
from hero_pl.types import Turn

Scope: TypeAlias = Literal["all", "after_thinking", "tool_call_only"]


class LossScope:
    """The range of sampled ids that is in the loss.

    Args:
        scope: ``all`` ids; ``after_thinking``: ids after the reasoning (all if there was no reasoning, none if it never
            ended); ``tool_call_only``: ids of the action, as the parser finds it in the reply (none if the reply calls
            no tool).
        skip_first_tokens: Number of ids at the start of each turn to leave out.
    """

    def __init__(self, scope: Scope = "all", skip_first_tokens: int = 0) -> None:
        if scope not in get_args(Scope):
            raise ConfigError(f"loss_scope={scope!r}: expected one of {', '.join(get_args(Scope))}.")
        if skip_first_tokens < 0:
            raise ConfigError(f"skip_first_tokens={skip_first_tokens}: expected 0 or more tokens per turn.")
        self.scope, self.skip_first_tokens = scope, skip_first_tokens

    def __call__(self, turn: Turn, dialect: Dialect) -> tuple[int, int]:
        """Start and end index; an empty range if no id is selected."""
        start, stop = (0, len(turn.action_ids)) if self.scope == "all" else _part(turn, dialect, self.scope)
        return max(start, min(self.skip_first_tokens, stop)), stop


def _part(turn: Turn, dialect: Dialect, scope: Scope) -> tuple[int, int]:
    ids = turn.action_ids
    text = _decode(dialect, ids)
    if inside_reasoning(text, dialect.template.opens_reasoning):
        return 0, 0
    thought = reasoning_ids(ids, lambda prefix: _decode(dialect, tuple(prefix)))
    if scope == "after_thinking":
        return thought, len(ids)
    reply = _decode(dialect, ids[thought:])
    located = dialect.parser.locate(reply)
    if located is None:
        return 0, 0
    # the first id whose text extends beyond the start of the action, and the first prefix with all of the action
    start = _first(ids[thought:], lambda prefix: len(_decode(dialect, prefix)) > located[0]) - 1
    stop = _first(ids[thought:], lambda prefix: len(_decode(dialect, prefix)) >= located[1])
    whole = located[1] >= len(reply)  # then the end-of-turn id, which has no text, belongs to the action
    return thought + max(start, 0), len(ids) if whole else thought + stop


def _decode(dialect: Dialect, ids: tuple[int, ...]) -> str:
    """Text including ``</think>``, which is a special token in some tokenizers; end-of-turn ids have no text."""
    kept = [token for token in ids if token not in dialect.template.end_ids]
    return dialect.template.encoder.spell(kept)


def _first(ids: tuple[int, ...], reached: Callable[[tuple[int, ...]], bool]) -> int:
    """Length of the shortest prefix for which ``reached`` is true, by bisection (it is true for all longer ones)."""
    return bisect_left(range(len(ids) + 1), True, key=lambda size: reached(ids[:size]))
