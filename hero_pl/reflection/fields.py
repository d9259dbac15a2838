"""The three fields of one turn: diagnosis, confidence, corrected action. Pure functions from JSON values.

Each returns the value and the codes of what had to be changed, in the order of the checks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hero_pl.reflection.context import ReflectionContext
from hero_pl.reflection.json_scan import Members, plain, scan
from hero_pl.types import Confidence

_PLACEHOLDERS = {
    *("n/a", "na", "n.a", "none", "null", "nil", "nan", "tbd", "tba", "todo", "undefined", "unknown", "empty"),
    *("not applicable", "not available", "no diagnosis", "diagnosis", "placeholder", "string", "str", "text"),
}
_NULL_TARGETS = {"", "n/a", "na", "none", "null", "nil", "-", "tbd", "undefined", "not applicable"}
_SYNONYMS: dict[str, Confidence] = {
    **dict.fromkeys(("high", "very high", "certain", "very certain"), "high"),
    **dict.fromkeys(("medium", "med", "moderate", "mid"), "medium"),
    **dict.fromkeys(("low", "very low", "uncertain", "very uncertain"), "low"),
}
_NUMBER = re.compile(r"\+?([0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})\s*(%?)")
_BRACKETS = re.compile(r"(\w+)\[(.*)\]")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*(?=\s|$)")


def read_diagnosis(value: Any, max_chars: int) -> tuple[str, list[str]]:
    """Fold white space and cut a long text at a sentence end; empty if there is nothing to say.

    Args:
        value: What stands under ``diagnosis``.
        max_chars: Longest text, in characters.
    """
    text = " ".join(value.split()) if isinstance(value, str) else ""
    bare = text.strip("\"'`“”‘’()[]{}<>*_ .!:;,").casefold()
    if bare in _PLACEHOLDERS or not any(character.isalnum() for character in bare):
        return "", ["empty_diagnosis"]
    if len(text) <= max_chars:
        return text, []
    ends = [found.end() for found in _SENTENCE_END.finditer(text, 0, max_chars + 1) if found.end() <= max_chars]
    end = ends[-1] if ends else text.rfind(" ", 0, max_chars + 1)
    return text[: end if end > 0 else max_chars].rstrip(), ["too_long"]


def read_confidence(value: Any) -> tuple[Confidence, list[str]]:
    """Read words, fractions and percents; anything else counts as low.

    Args:
        value: What stands under ``confidence``.

    Example:
        >>> read_confidence("high"), read_confidence("85 %"), read_confidence(True)
        (('high', []), ('high', ['confidence_normalised']), ('low', ['bad_confidence']))
    """
    if value in ("low", "medium", "high"):
        return value, []
    level: Confidence | None = None
    if isinstance(value, str):
        word = re.sub(r"[\s_-]+", " ", value).strip().casefold()
        number = _NUMBER.fullmatch(value.strip())
        level = _level(float(number[1]), bool(number[2])) if number else _SYNONYMS.get(word)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        level = _level(value, percent=False)
    return (level, ["confidence_normalised"]) if level else ("low", ["bad_confidence"])


def read_target(
    value: Any, confidence: Confidence, episode: ReflectionContext, turn: int
) -> tuple[Mapping[str, Any] | None, list[str]]:
    """Keep a corrected action only if it is one, names a known tool, is not a guess and differs from what was done.

    Args:
        value: What stands under ``next_action_target``. Where the episode has no tools, actions are plain text, and a
            text like ``click[red]`` is kept as a call of ``click`` with one argument.
        confidence: The confidence that was read for the turn.
        episode: Names the tools and the actions taken.
        turn: Number of the turn, from 1.
    """
    target, codes = _decode(value, text_actions=not episode.tools)
    if target is None:
        return None, codes
    if episode.tools and target.get("name") not in episode.tools:
        return None, [*codes, "unknown_tool"]
    if confidence == "low":
        return None, [*codes, "target_without_confidence"]
    if _same_action(target, episode.actions[turn - 1]):
        return None, [*codes, "target_equals_action"]
    return target, codes


def _level(number: float, percent: bool) -> Confidence | None:
    """A fraction in [0, 1]; whole numbers 2..100 and anything with a percent sign are percents."""
    if percent or (2 <= number <= 100 and number == int(number)):
        number /= 100
    if not 0 <= number <= 1:
        return None
    return "high" if number >= 0.75 else "medium" if number >= 0.4 else "low"


def _decode(value: Any, text_actions: bool) -> tuple[Mapping[str, Any] | None, list[str]]:
    if isinstance(value, dict):
        return value, []
    if value is None:
        return None, []
    if not isinstance(value, str):
        return None, ["bad_target"]
    text = value.strip()
    if text.strip("\"'").casefold() in _NULL_TARGETS:
        return None, []
    for span in scan(text):
        if (span.start, span.end) == (0, len(text)) and isinstance(span.value, Members) and span.value.complete:
            return plain(span.value), ["target_decoded"]
        break
    call = _BRACKETS.fullmatch(text) if text_actions else None
    return ({"name": call[1], "arguments": {"argument": call[2]}}, []) if call else (None, ["bad_target"])


def _same_action(target: Mapping[str, Any], action: str) -> bool:
    """Equal as JSON, key order aside, missing arguments being empty; or equal as ``name[argument]``."""
    arguments = target.get("arguments")
    if isinstance(arguments, dict) and len(arguments) == 1:
        (argument,) = arguments.values()
        if action.strip() == f"{target.get('name')}[{argument}]":
            return True
    try:
        taken = json.loads(action)
    except (ValueError, RecursionError):  # a plain reply
        return False
    return isinstance(taken, dict) and _canonical(target) == _canonical(taken)


def _canonical(action: Mapping[str, Any]) -> str:
    filled = {**action, "arguments": action.get("arguments") or {}}
    return json.dumps(filled, sort_keys=True, ensure_ascii=False)
