"""Parse the text of a reflector to one diagnosis or ``None`` per turn, with a code for every change.

The most important rule: a diagnosis must never be paired with the wrong action. Keys that start at 0 are shifted only
if they are exactly ``0..T-1``; a key 0 in any other pattern rejects the whole output.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from hero_pl.chat.encode import scrub
from hero_pl.chat.reasoning import answer_in
from hero_pl.errors import ConfigError, ReflectionError
from hero_pl.reflection.context import ReflectionContext
from hero_pl.reflection.fields import read_confidence, read_diagnosis
from hero_pl.reflection.json_scan import JSON_BEGINS, Items, Members, Span, is_complete, plain, scan
from hero_pl.reflection.leak import REDACTED, LeakIndex
from hero_pl.reflection.lines import LINES_BEGIN, read_lines
from hero_pl.reflection.target import read_target
from hero_pl.types import Diagnosis, Reflection

__all__ = ["AnswerForm", "LeakPolicy", "ReflectionContext", "dump_reflection", "parse_reflection"]

LeakPolicy: TypeAlias = Literal["drop", "redact", "flag"]
AnswerForm: TypeAlias = Literal["json", "lines"]
"""How a review is written: one JSON object, or one plain line per turn (:mod:`hero_pl.reflection.lines`)."""
Issues: TypeAlias = list[tuple[str, int]]

_KEY = re.compile(r"\s*(turn[\s_#-]*)?0*([0-9]{1,6})\s*", re.IGNORECASE | re.ASCII)
_MAX_WRAPPING = 3


def parse_reflection(
    raw: str,
    *,
    turns: int,
    context: ReflectionContext,
    leak_policy: LeakPolicy = "drop",
    leak_ngram: int = 6,
    max_diagnosis_chars: int = 800,
    window: tuple[int, int] | None = None,
    form: AnswerForm = "json",
    ended: bool = True,
    opened: bool = False,
) -> Reflection:
    """Parse one reflector output; never raises because of ``raw``.

    Args:
        raw: Text of the reflector.
        turns: Number of turns of the episode.
        context: The episode.
        leak_policy: What to do with a diagnosis that contains later information: ``drop`` it, ``redact`` the words, or
            ``flag`` it and change nothing. A target with later information is dropped, except with ``flag``.
        leak_ngram: Number of consecutive words that count as a quotation.
        max_diagnosis_chars: Longer diagnoses are cut at the end of a sentence.
        window: First and last turn that this output has to cover; default: the whole episode. Other turns are ``None``,
            without an issue.
        form: Form of the answer.
        ended: Whether the answer is complete. If not, a last line without an end is left out; JSON shows it by itself.
        opened: Whether the prompt already opened the reasoning. An answer that ended inside its reasoning gives no
            entries, and the issue ``unfinished_reasoning``: a draft is not a review.

    Returns:
        One entry per turn of the episode. ``issues`` are in order of discovery.

    Raises:
        ConfigError: A setting is out of range.
        ReflectionError: ``context`` has another number of turns.

    Example:
        >>> episode = ReflectionContext("Buy tea.", ("search[tea]",), ("3 results",), (), 1.0)
        >>> parse_reflection('{"1": {"diagnosis": "Right.", "confidence": "high"}}', turns=1, context=episode).issues
        (('key_normalised', 0),)
    """
    check_settings(leak_policy, leak_ngram, max_diagnosis_chars)
    if len(context.actions) != turns:
        raise ReflectionError(
            f"A reflection over {turns} turns got the context of an episode with {len(context.actions)} turns. "
            "Build it with ReflectionContext.of(trajectory) from the same trajectory."
        )
    first, last = window or (1, turns)
    raw = scrub(raw)
    issues: Issues = []
    text = answer_in(raw, LINES_BEGIN if form == "lines" else JSON_BEGINS, opened)
    best: _Candidate | None = None
    if text is None:
        issues.append(("unfinished_reasoning", 0))
    else:
        if len(text) < len(raw):
            issues.append(("thinking_stripped", 0))
        if form == "lines" and not ended and text:
            text = text.rpartition("\n")[0]
            issues.append(("cut_line", 0))
        best = _of_lines(text) if form == "lines" else _best(text, first, last, whole=(first, last) == (1, turns))
        if best is None:
            issues.append((f"no_{form}", 0))
    entries = _by_turn(best, first, last, turns, issues) if best else {}
    leaks = LeakIndex(context, leak_ngram) if entries else None
    diagnoses: list[Diagnosis | None] = [None] * turns
    for number in range(first, last + 1) if leaks else ():
        if entries.get(number) is None:  # left out, or null
            issues.append(("missing_turn", number))
        elif leaks:
            codes: list[str] = []
            diagnosis = _read_turn(entries[number], number, context, max_diagnosis_chars, codes)
            if diagnosis:
                diagnosis = _without_leak(diagnosis, number, leaks, leak_policy, max_diagnosis_chars, codes)
            diagnoses[number - 1] = diagnosis
            issues += [(code, number) for code in codes]
    rejected = not any(diagnoses)
    strict = not issues and best is not None and _is_one_object(best.span, raw)
    status: Literal["ok", "repaired", "rejected"] = "rejected" if rejected else "repaired" if issues else "ok"
    return Reflection(tuple(diagnoses), status, strict and not rejected, tuple(issues), raw)


def check_settings(leak_policy: str, leak_ngram: int, max_diagnosis_chars: int) -> None:
    """Check the settings before anything is parsed.

    Raises:
        ConfigError: A setting is out of range.
    """
    if leak_policy not in get_args(LeakPolicy):
        raise ConfigError(f"leak_policy={leak_policy!r}: expected one of {', '.join(get_args(LeakPolicy))}.")
    if leak_ngram < 2:
        raise ConfigError(f"leak_ngram={leak_ngram}: expected at least 2 words in a row; the default is 6.")
    if max_diagnosis_chars < 1:
        raise ConfigError(f"max_diagnosis_chars={max_diagnosis_chars}: expected at least 1; the default is 800.")


def dump_reflection(reflection: Reflection) -> str:
    """Format the diagnoses as reflectors should write them; turns without a diagnosis are left out."""
    turns = {
        f"turn{number}": {
            "diagnosis": diagnosis.text,
            "confidence": diagnosis.confidence,
            "next_action_target": diagnosis.next_action_target,
        }
        for number, diagnosis in enumerate(reflection.diagnoses, 1)
        if diagnosis
    }
    return json.dumps(turns, ensure_ascii=False)


# --- which JSON, and which turn --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Candidate:
    """A span with turn numbers; ``entries`` are ``(number, value, whether the key was canonical)``."""

    span: Span
    entries: list[tuple[int, Any, bool]]
    score: int


def _best(text: str, first: int, last: int, whole: bool) -> _Candidate | None:
    """The span that covers most turns; on a tie the later one."""
    best: _Candidate | None = None
    inside = 0  # containers inside a candidate are part of it
    for span in scan(text):
        entries = _entries(span.value, wrapped=0) if span.start >= inside else []
        if not entries:
            continue
        inside = span.end
        by_turn = {number: value for number, value, _ in entries}
        shift = int(whole and _zero_indexed(by_turn, last))
        score = sum(first <= number + shift <= last and value is not None for number, value in by_turn.items())
        if best is None or score >= best.score:
            best = _Candidate(span, entries, score)
    return best


def _entries(value: Any, wrapped: int) -> list[tuple[int, Any, bool]]:
    """Turns of an object with turn keys, of a list of objects with ``turn``, or of either under one wrapping key."""
    if isinstance(value, Items):
        numbered = [(_listed_turn(item), item, False) for item in value.values if is_complete(item)]
        return [(number, item, False) for number, item, _ in numbered if number is not None]
    if not isinstance(value, Members):
        return []
    keyed = [(_key_turn(key), item, key) for key, item in value.pairs if is_complete(item)]
    entries = [(number, item, key == f"turn{number}") for number, item, key in keyed if number is not None]
    if entries or wrapped >= _MAX_WRAPPING:
        return entries
    inner = [turns for turns in (_entries(item, wrapped + 1) for _, item in value.pairs) if turns]
    return [(number, item, False) for number, item, _ in inner[0]] if len(inner) == 1 else []


def _key_turn(key: str) -> int | None:
    match = _KEY.fullmatch(key)
    return int(match[2]) if match else None


def _listed_turn(item: Any) -> int | None:
    value = plain(item).get("turn") if isinstance(item, Members) else None
    if isinstance(value, str):
        return _key_turn(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        return None
    return int(value)


def _zero_indexed(numbers: Iterable[int], turns: int) -> bool:
    return set(numbers) == set(range(turns))


def _of_lines(text: str) -> _Candidate | None:
    """The lines with a turn number."""
    entries, whole = read_lines(text)
    span = Span(0, len(text) if whole else 0, Members([], complete=True), repaired=False, truncated=False)
    return _Candidate(span, entries, len(entries)) if entries else None


def _by_turn(best: _Candidate, first: int, last: int, turns: int, issues: Issues) -> dict[int, Any]:
    """Values by turn number, from 1; empty if the output is rejected."""
    if best.span.truncated:
        issues.append(("truncated_output", 0))
    if best.span.repaired:
        issues.append(("json_repaired", 0))
    if not all(canonical for _, _, canonical in best.entries):
        issues.append(("key_normalised", 0))
    by_turn = {number: value for number, value, _ in best.entries}  # the last of duplicates is used
    if len(by_turn) < len(best.entries):
        issues.append(("duplicate_key", 0))
    # an answer that counts the turns of its window may be cut, or leave turns out
    if first > 1 and min(by_turn) < first and max(by_turn) <= last - first + 1:
        issues.append(("ambiguous_indexing", 0))
        return {}
    if 0 in by_turn:
        if (first, last) != (1, turns) or not _zero_indexed(by_turn, turns):
            issues.append(("ambiguous_indexing", 0))
            return {}
        issues.append(("zero_indexed", 0))
        by_turn = {number + 1: value for number, value in by_turn.items()}
    in_range = {number: value for number, value in by_turn.items() if first <= number <= last}
    if not in_range:
        issues.append(("no_turn_in_range", 0))
    else:
        issues += [("extra_turn", number) for number in sorted(by_turn.keys() - in_range.keys())]
    return in_range


# --- one turn --------------------------------------------------------------------------------------------------------


def _read_turn(
    value: Any, number: int, context: ReflectionContext, max_chars: int, codes: list[str]
) -> Diagnosis | None:
    if isinstance(value, str):
        codes.append("bare_string_turn")
        value = Members([("diagnosis", value)])
    fields = plain(value) if isinstance(value, Members) else {}
    text, text_codes = read_diagnosis(fields.get("diagnosis"), max_chars)
    codes += text_codes
    if not text:
        return None
    confidence, confidence_codes = read_confidence(fields.get("confidence"))
    target, target_codes = read_target(fields.get("next_action_target"), confidence, context, number)
    codes += confidence_codes + target_codes
    return Diagnosis(text, confidence, target)


def _without_leak(
    diagnosis: Diagnosis, number: int, leaks: LeakIndex, policy: LeakPolicy, max_chars: int, codes: list[str]
) -> Diagnosis | None:
    text, target = diagnosis.text, diagnosis.next_action_target
    if code := leaks.find(text, number):
        codes.append(code)
        if policy == "redact":
            text = read_diagnosis(leaks.redact(text, number), max_chars)[0]
        if policy == "drop" or not read_diagnosis(text.replace(REDACTED, ""), max_chars)[0]:
            return None
    if target is not None and leaks.in_action(target, number):
        codes.append("target_leak")
        target = target if policy == "flag" else None
    return Diagnosis(text, diagnosis.confidence, target)


def _is_one_object(span: Span, raw: str) -> bool:
    """Whether the text is one JSON object with only white space around it."""
    return isinstance(span.value, Members) and not raw[: span.start].strip() and not raw[span.end :].strip()
