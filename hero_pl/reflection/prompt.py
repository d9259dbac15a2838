"""Build the request to a reflector: instructions, the recorded episode, and windows for long episodes.

The texts are in ``prompts/*.jinja``. All text from users, tools, pages and the policy is quoted line by line, so that
it cannot look like a turn header or an instruction. Replies, and turns outside a window, may be cut in the middle with
a visible marker, and every cut is an issue of the reflection; actions and headers of reviewed turns are never cut.
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
from hero_pl.reflection.parse import AnswerForm
from hero_pl.types import Message, Reflection, Trajectory, Turn

_FOLDER = Path(__file__).parent / "prompts"
OUTSIDE_CHARS = 160
"""Maximum length of actions and replies of turns outside the window, in characters."""
OUTSIDE_TURNS = 8
"""Number of turns shown before the window, and maximum number after it; the request gives the number left out."""
LATER_SHARE = 0.25
"""Fraction of the remaining space (without instructions and task) for turns after the window."""
TOKENS_PER_TURN = 96
"""Tokens for the diagnosis of one turn."""
TOKENS_BESIDE = 64
"""Tokens for the rest of an answer."""

_EXPLANATIONS = {
    "no_json": "no JSON object with turn keys was found",
    "unfinished_reasoning": "it ended inside the reasoning; reason less, then write the review",
    "no_lines": "no line begins with turn1:, turn2: and so on",
    "truncated_output": "the object was not finished; write shorter diagnoses",
    "cut_line": "the last line was not finished; write shorter ones",
    "ambiguous_indexing": "turn keys must be the turn numbers of the request; the first turn of an episode is turn1",
    "no_turn_in_range": "none of the turn keys belongs to this episode",
    "missing_turn": "the entry is missing",
    "empty_diagnosis": "the diagnosis is missing or empty",
    "leak_ngram": "the diagnosis quotes what only happened later",
    "leak_identifier": "the diagnosis names a value that only appears later",
}


@dataclass(frozen=True, slots=True)
class ReflectorRequest:
    """One request to a reflector."""

    messages: tuple[Message, ...]
    window: tuple[int, int]
    """First and last turn to diagnose."""
    cuts: tuple[tuple[str, int], ...] = ()
    """Text that the request does not show, as issues: ``reply_cut`` with the reviewed turn; with the first turn of the
    window ``past_cut`` (texts of turns before it are shortened) and ``past_left_out`` (turns before it are missing);
    with the last turn ``future_cut`` and ``future_left_out`` for turns after it."""
    form: AnswerForm = "json"
    """Form of the answer."""

    @property
    def max_new_tokens(self) -> int:
        """Maximum number of tokens for the answer."""
        return answer_tokens(self.window)


def answer_tokens(window: tuple[int, int], per_turn: int = TOKENS_PER_TURN) -> int:
    """Maximum number of tokens for the diagnoses of a window."""
    return per_turn * (window[1] - window[0] + 1) + TOKENS_BESIDE


def requests(
    trajectory: Trajectory, *, max_size: int, count: Callable[[str], int] = len, max_reply_chars: int = 4000
) -> list[ReflectorRequest]:
    """All requests for one trajectory: one, or the smallest number of windows if one would be too long.

    Args:
        trajectory: A finished episode.
        max_size: Maximum size of a request, in the unit of ``count``. A window always has at least one turn.
        count: Returns the size of a text; default: characters.
        max_reply_chars: Longer replies are cut in the middle.

    Raises:
        ConfigError: ``max_size`` is not positive, or ``max_reply_chars`` is below 100.
    """
    check_sizes("requests", "max_size", max_size, max_reply_chars)
    total = len(trajectory.turns)
    fixed = count(_template("system").render(first=1, last=total)) + count(_task(trajectory))

    def request(first: int, last: int) -> ReflectorRequest:
        later = _later(trajectory.turns[last:], total, int(LATER_SHARE * (max_size - fixed)), count)
        return render_request(trajectory, window=(first, last), later=later, max_reply_chars=max_reply_chars)

    def fits(first: int, last: int) -> bool:
        return count("\n".join(message.content for message in request(first, last).messages)) <= max_size

    windows: list[ReflectorRequest] = []
    first = 1
    while first <= total:
        low, high = first, total  # the largest last turn that fits lies in [low, high]
        if fits(first, high):
            low = high
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(first, middle) else (low, middle - 1)
        windows.append(request(first, low))
        first = low + 1
    return windows


def check_sizes(owner: str, name: str, max_size: int, max_reply_chars: int) -> None:
    """Check the limits of a request.

    Args:
        owner: What has the settings.
        name: Name of the first one.
        max_size: Maximum size of a request.
        max_reply_chars: Maximum length of a reply in it.

    Raises:
        ConfigError: One is out of range.
    """
    if max_size < 1 or max_reply_chars < 100:
        raise ConfigError(
            f"{owner}({name}={max_size}, max_reply_chars={max_reply_chars}): expected at least 1 and 100."
        )


def render_request(
    trajectory: Trajectory,
    *,
    window: tuple[int, int] | None = None,
    later: Sequence[Turn] = (),
    max_reply_chars: int = 4000,
) -> ReflectorRequest:
    """Render the request for the turns of ``window``.

    Args:
        trajectory: A finished episode.
        window: First and last turn to diagnose; default: all. The turns directly before are shown shortened.
        later: Turns after the window to show, shortened, so that late consequences are visible.
        max_reply_chars: Longer replies are cut in the middle.

    Raises:
        ConfigError: The window or the limit is out of range.
    """
    total = len(trajectory.turns)
    first, last = window or (1, total)
    if not 1 <= first <= last <= total:
        raise ConfigError(
            f"Window {first}..{last} of an episode with {total} turns: expected 1 <= first <= last <= {total}."
        )
    check_sizes("render_request", "max_size", 1, max_reply_chars)
    reviewed = trajectory.turns[first - 1 : last]
    earlier = trajectory.turns[max(0, first - 1 - OUTSIDE_TURNS) : first - 1]
    values = {
        "first": first,
        "last": last,
        "turns": total,
        "task": _task(trajectory),
        "stop_reason": trajectory.stop_reason.value.replace("_", " "),
        "reward": trajectory.reward,
        "earlier": [_shortened(turn) for turn in earlier],
        "later": [_shortened(turn) for turn in later],
        "shown": [
            {"number": turn.number, "action": turn.text, "reply": cut_middle(turn.observation, max_reply_chars)}
            for turn in reviewed
        ],
    }
    messages = (
        Message("system", _template("system").render(values)),
        Message("user", _template("transcript").render(values)),
    )
    cuts = [("reply_cut", turn.number) for turn in reviewed if len(turn.observation) > max_reply_chars]
    cuts += _outside_cuts("past", first, earlier, first - 1) + _outside_cuts("future", last, later, total - last)
    return ReflectorRequest(messages, (first, last), tuple(cuts))


def _later(turns: Sequence[Turn], total: int, room: int, count: Callable[[str], int]) -> list[Turn]:
    """The last turn of an episode and the next ones, as many as fit; sorted."""
    chosen: list[Turn] = []
    for turn in (*turns[:1], *turns[1:][-1:], *turns[1:-1][: OUTSIDE_TURNS - 2]):
        more = sorted((*chosen, turn), key=lambda one: one.number)
        values = {"last": turns[0].number - 1, "turns": total, "later": [_shortened(one) for one in more]}
        if count(_template("later").render(values)) > room:
            break
        chosen = more
    return chosen


def _shortened(turn: Turn) -> dict[str, str | int]:
    return {
        "number": turn.number,
        "action": cut_middle(turn.text, OUTSIDE_CHARS),
        "reply": cut_middle(turn.observation, OUTSIDE_CHARS),
    }


def _outside_cuts(when: str, place: int, shown: Sequence[Turn], existing: int) -> list[tuple[str, int]]:
    """Issues for turns before or after a window that are shortened or missing."""
    cut = any(len(text) > OUTSIDE_CHARS for turn in shown for text in (turn.text, turn.observation))
    return [(f"{when}_cut", place)] * cut + [(f"{when}_left_out", place)] * (existing > len(shown))


def lines_request(trajectory: Trajectory) -> str:
    """The request after an episode for a review in plain lines."""
    return _template("lines").render(reward=trajectory.reward, turns=len(trajectory.turns))


def retry_message(reflection: Reflection, window: tuple[int, int], form: AnswerForm = "json") -> Message:
    """Second request, with the list of errors in the first answer.

    Args:
        reflection: The first answer, parsed.
        window: First and last turn to diagnose.
        form: Form of the answer.
    """
    issues = [
        f"turn{turn}: {_EXPLANATIONS.get(code, code)}" if turn else _EXPLANATIONS.get(code, code)
        for code, turn in reflection.issues
        if code not in ("retried", "retry_too_long")
    ]
    return Message("user", _template("retry").render(issues=issues, first=window[0], last=window[1], form=form))


def merge_windows(parts: Sequence[Reflection], turns: int, cuts: Sequence[tuple[str, int]] = ()) -> Reflection:
    """Join the reflections on the windows of one episode.

    Args:
        parts: One per window, each with an entry for every turn of the episode.
        turns: Number of turns of the episode.
        cuts: Issues for text that the requests did not show; they do not change the status.
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
    """Keep the beginning and the end of a long text, with a marker that gives the number of missing characters.

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
