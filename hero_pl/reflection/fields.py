"""Parse two fields of one turn: diagnosis and confidence. Pure functions of JSON values; for the third see ``target``.

Each returns the value and the codes of the changes, in the order of the checks.
"""

from __future__ import annotations

import re
from typing import Any

from hero_pl.types import Confidence

_PLACEHOLDERS = {
    *("n/a", "na", "n.a", "none", "null", "nil", "nan", "tbd", "tba", "todo", "undefined", "unknown", "empty"),
    *("not applicable", "not available", "no diagnosis", "diagnosis", "placeholder", "string", "str", "text"),
}
_SYNONYMS: dict[str, Confidence] = {
    **dict.fromkeys(("high", "very high", "certain", "very certain"), "high"),
    **dict.fromkeys(("medium", "med", "moderate", "mid"), "medium"),
    **dict.fromkeys(("low", "very low", "uncertain", "very uncertain"), "low"),
}
_NUMBER = re.compile(r"\+?([0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})\s*(%?)")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*(?=\s|$)")


def read_diagnosis(value: Any, max_chars: int) -> tuple[str, list[str]]:
    """Normalize white space and cut a long text at the end of a sentence; empty if there is no diagnosis.

    Args:
        value: Value of ``diagnosis``.
        max_chars: Maximum length, in characters.
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
    """Parse words, fractions and percents; all other values count as low.

    Args:
        value: Value of ``confidence``.

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


def _level(number: float, percent: bool) -> Confidence | None:
    """A fraction in [0, 1]; whole numbers 2..100 and anything with a percent sign are percents."""
    if percent or (2 <= number <= 100 and number == int(number)):
        number /= 100
    if not 0 <= number <= 1:
        return None
    return "high" if number >= 0.75 else "medium" if number >= 0.4 else "low"
