"""The request a reflector is asked with: instructions, the recorded episode, windows for long episodes.

Wording lives in ``prompts/*.jinja``. Everything that came from a user, a tool, a page or the policy is quoted line by
line, so that it can neither pose as a turn header nor as an instruction. Replies, and turns before a window, may be cut
in the middle with a visible marker, and every cut is an issue of the reflection; actions and headers of reviewed turns
are never cut.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2

from hero_pl.chat.wording import jinja_environment, quoted
from hero_pl.errors import ConfigError
from hero_pl.types import Message, Reflection, Trajectory, Turn

_FOLDER = Path(__file__).parent / "prompts"
EARLIER_CHARS = 160
"""Length to which actions and replies of turns before the window are cut, in characters."""
EARLIER_TURNS = 8
"""Turns before the window that are shown; older ones are named as left out, so that late windows stay small."""
TOKENS_PER_TURN = 96
"""Room for the diagnosis of one turn."""
TOKENS_BESIDE = 64
"""Room for the rest of an answer."""

_EXPLANATIONS = {
    "no_json": "no JSON object with turn keys was found",
    "truncated_output": "the object was not finished; write shorter diagnoses",
    "ambiguous_indexing": "turn keys must start at turn1, not at turn0",
    "no_turn_in_range": "none of the turn keys belongs to this episode",
    "missing_turn": "the entry is missing",
    "empty_diagnosis": "the diagnosis is missing or empty",
    "leak_ngram": "the diagnosis quotes what only happened later",
    "leak_identifier": "the diagnosis names a value that only appears later",
}


@dataclass(frozen=True, slots=True)
class ReflectorRequest:
    """One question to a reflector."""

    messages: tuple[Message, ...]
    window: tuple[int, int]
    """First and last turn to be diagnosed."""
    cuts: tuple[tuple[str, int], ...] = ()
    """What it does not show, as issues: ``reply_cut`` with the reviewed turn; with the first turn of the window
    ``past_cut`` (texts of turns before it are shortened) and ``past_left_out`` (turns before it are missing)."""

    @property
    def max_new_tokens(self) -> int:
        """Room for the answer."""
        return answer_tokens(self.window)


def answer_tokens(window: tuple[int, int], per_turn: int = TOKENS_PER_TURN) -> int:
    """Room for diagnoses of the turns of a window, in tokens."""
    return per_turn * (window[1] - window[0] + 1) + TOKENS_BESIDE


def requests(
    trajectory: Trajectory, *, max_size: int, count: Callable[[str], int] = len, max_reply_chars: int = 4000
) -> list[ReflectorRequest]:
    """All requests for one trajectory: one, or one per window of turns where one would be too long.

    Args:
        trajectory: A finished episode.
        max_size: Largest request, in the unit of ``count``. A window always has one turn, even if that is larger.
        count: Size of a text: characters by default, or a tokenizer's count.
        max_reply_chars: Longer replies are cut in the middle.
    """
    return [
        render_request(trajectory, window=window, max_reply_chars=max_reply_chars)
        for window in windows(trajectory, max_size=max_size, count=count, max_reply_chars=max_reply_chars)
    ]


def windows(
    trajectory: Trajectory, *, max_size: int, count: Callable[[str], int] = len, max_reply_chars: int = 4000
) -> list[tuple[int, int]]:
    """Split the turns ``1..T`` into the fewest consecutive windows whose requests are not larger than ``max_size``.

    Args:
        trajectory: A finished episode.
        max_size: Largest request, in the unit of ``count``; a single turn that is larger gets a window of its own.
        count: Size of a text.
        max_reply_chars: Longer replies are cut in the middle.

    Raises:
        ConfigError: If ``max_size`` is not positive.
    """
    if max_size < 1:
        raise ConfigError(f"max_size={max_size}: a reflector request needs room; expected at least 1.")

    def fits(first: int, last: int) -> bool:
        request = render_request(trajectory, window=(first, last), max_reply_chars=max_reply_chars)
        return count("\n".join(message.content for message in request.messages)) <= max_size

    total = len(trajectory.turns)
    found: list[tuple[int, int]] = []
    first = 1
    while first <= total:
        low, high = first, total  # the largest last turn that fits lies in [low, high]
        if fits(first, high):
            low = high
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(first, middle) else (low, middle - 1)
        found.append((first, low))
        first = low + 1
    return found


def render_request(
    trajectory: Trajectory, *, window: tuple[int, int] | None = None, max_reply_chars: int = 4000
) -> ReflectorRequest:
    """Render the request for the turns of ``window``.

    Args:
        trajectory: A finished episode.
        window: First and last turn to be diagnosed; all by default. The turns just before are shown shortened, later
            ones not at all.
        max_reply_chars: Longer replies are cut in the middle.

    Raises:
        ConfigError: If the window or the limit is out of range.
    """
    total = len(trajectory.turns)
    first, last = window or (1, total)
    if not 1 <= first <= last <= total:
        raise ConfigError(
            f"Window {first}..{last} of an episode with {total} turns: expected 1 <= first <= last <= {total}."
        )
    if max_reply_chars < 100:
        raise ConfigError(f"max_reply_chars={max_reply_chars}: expected at least 100, or nothing of a reply is left.")
    reviewed = trajectory.turns[first - 1 : last]
    earlier = trajectory.turns[max(0, first - 1 - EARLIER_TURNS) : first - 1]
    values = {
        "first": first,
        "last": last,
        "turns": total,
        "task": _task(trajectory),
        "stop_reason": trajectory.stop_reason.value.replace("_", " "),
        "reward": trajectory.reward,
        "earlier": [
            {
                "number": turn.number,
                "action": cut_middle(turn.text, EARLIER_CHARS),
                "reply": cut_middle(turn.observation, EARLIER_CHARS),
            }
            for turn in earlier
        ],
        "shown": [
            {"number": turn.number, "action": turn.text, "reply": cut_middle(turn.observation, max_reply_chars)}
            for turn in reviewed
        ],
    }
    messages = (
        Message("system", _template("system").render(values)),
        Message("user", _template("transcript").render(values)),
    )
    return ReflectorRequest(messages, (first, last), _cuts(reviewed, earlier, max_reply_chars))


def _cuts(reviewed: Sequence[Turn], earlier: Sequence[Turn], max_reply_chars: int) -> tuple[tuple[str, int], ...]:
    first = reviewed[0].number
    cuts = [("reply_cut", turn.number) for turn in reviewed if len(turn.observation) > max_reply_chars]
    if any(len(text) > EARLIER_CHARS for turn in earlier for text in (turn.text, turn.observation)):
        cuts.append(("past_cut", first))
    if first - 1 > len(earlier):
        cuts.append(("past_left_out", first))
    return tuple(cuts)


def retry_message(reflection: Reflection, window: tuple[int, int]) -> Message:
    """Ask again, with the list of what was wrong with the first answer.

    Args:
        reflection: The first answer, parsed.
        window: First and last turn that were asked for.
    """
    issues = [
        f"turn{turn}: {_EXPLANATIONS.get(code, code)}" if turn else _EXPLANATIONS.get(code, code)
        for code, turn in reflection.issues
        if code not in ("retried", "retry_too_long")
    ]
    return Message("user", _template("retry").render(issues=issues, first=window[0], last=window[1]))


def merge_windows(parts: Sequence[Reflection], turns: int, cuts: Sequence[tuple[str, int]] = ()) -> Reflection:
    """Join the reflections on the windows of one episode.

    Args:
        parts: One per window, each with an entry for every turn of the episode.
        turns: Number of turns of the episode.
        cuts: What the requests did not show: further issues, which say nothing against the answers.
    """
    if len(parts) == 1:
        return replace(parts[0], issues=(*parts[0].issues, *cuts)) if cuts else parts[0]
    diagnoses = tuple(next((part.diagnoses[i] for part in parts if part.diagnoses[i]), None) for i in range(turns))
    issues = tuple(issue for part in parts for issue in part.issues)
    return Reflection(
        diagnoses,
        status="rejected" if not any(diagnoses) else "repaired" if issues else "ok",
        strict=bool(parts) and all(part.strict for part in parts),
        issues=(*issues, *cuts),
        raw="\n".join(part.raw for part in parts),
        tokens=sum(part.tokens for part in parts),
    )


def cut_middle(text: str, max_chars: int) -> str:
    """Keep the beginning and the end of a long text, with a marker that says how much is missing.

    Example:
        >>> cut_middle("a" * 300 + "b" * 300, 100)
        'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa [... 536 characters left out ...] bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb'
    """
    if len(text) <= max_chars:
        return text
    half = (max_chars - 36) // 2  # the marker is 36 characters long if the missing part has three or four digits
    return f"{text[:half]} [... {len(text) - 2 * half} characters left out ...] {text[len(text) - half :]}"


def _task(trajectory: Trajectory) -> str:
    schemas = [json.dumps(tool, ensure_ascii=False, default=str) for tool in trajectory.tools]
    tools = ["Tools:", *schemas] if schemas else []
    return "\n".join(part for part in (trajectory.system_prompt, *tools, trajectory.first_observation) if part)


@functools.cache
def _template(name: str) -> jinja2.Template:
    environment = jinja_environment(jinja2.FileSystemLoader(_FOLDER))
    environment.filters["quoted"] = quoted
    return environment.get_template(f"{name}.jinja")
