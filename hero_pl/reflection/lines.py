"""Reviews in plain lines, for models that cannot write JSON: ``turn2: opened the wrong page / do: click[back]``.

One line per turn: its number, optionally a confidence in brackets, the diagnosis, and after ``/ do:`` the corrected
action if there is one. A separate line ``do:`` belongs to the turn above it.
"""

from __future__ import annotations

import re
from typing import Any

from hero_pl.reflection.json_scan import Members

_TURN = re.compile(
    r"\W{0,4}turn[\s_#-]*0*([0-9]{1,6})\s*(?:[(\[]([^)\]]{1,40})[)\]])?\s*[:.)-]\s*(.*)", re.IGNORECASE | re.ASCII
)
LINES_BEGIN = re.compile(r"\s*\W{0,4}turn[\s_#-]*[0-9]", re.IGNORECASE | re.ASCII)
"""Beginning of a review in lines."""
_DO = re.compile(r"(?:(.*?)\s*[/;|]\s*)?do:\s*(.*)", re.IGNORECASE)
_LABEL = re.compile(r"diagnosis:\s*", re.IGNORECASE)
UNSAID = "medium"
"""Confidence of a line that names none."""


def read_lines(text: str) -> tuple[list[tuple[int, Any, bool]], bool]:
    r"""The turns that a review names, as ``(number, fields, written as asked)``, and whether every line was one.

    Example:
        >>> found, whole = read_lines("turn1: fine\nturn2 (high): wrong shelf / do: click[lamp]")
        >>> [(number, fields.pairs[0][1]) for number, fields, _ in found], whole
        ([(1, 'fine'), (2, 'wrong shelf')], True)
    """
    entries: list[tuple[int, Any, bool]] = []
    whole = True
    for line in filter(None, map(str.strip, text.splitlines())):
        turn, do = _TURN.fullmatch(line), _DO.fullmatch(line)
        if turn:
            text_of_turn, confidence = _LABEL.sub("", turn[3], count=1), turn[2]
            do = _DO.fullmatch(text_of_turn)
            pairs = [("diagnosis", (do[1] or "") if do else text_of_turn), ("confidence", confidence or UNSAID)]
            if do:
                pairs.append(("next_action_target", do[2]))
            entries.append((int(turn[1]), Members(pairs, complete=True), line.startswith(f"turn{turn[1]}")))
        elif do and not do[1] and entries:
            entries[-1][1].pairs.append(("next_action_target", do[2]))
        else:
            whole = False
    return entries, whole
