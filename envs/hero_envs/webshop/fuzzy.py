"""Fuzzy comparison of two short texts, with the same results as thefuzz 0.19.0 with ``difflib``."""

import re
from collections import Counter
from difflib import SequenceMatcher
from functools import lru_cache

MATCH_THRESHOLD = 85
"""Two texts match if their ratio is **above** this number (0 to 100)."""

_LATIN_1_UPPER_HALF = dict.fromkeys(range(0x80, 0x100))
_NOT_A_WORD_CHARACTER = re.compile(r"\W")


def matches(first: object, second: object) -> bool:
    """Whether the benchmark treats two attributes or option values as equal."""
    return _matches(str(first), str(second))


@lru_cache(maxsize=1 << 16)
def _matches(first: str, second: str) -> bool:
    """Same as ``token_set_ratio(...) > MATCH_THRESHOLD``, but faster: skips the slow comparison where a bound excludes
    a match. The bound, for texts without a common word, is twice the number of common letters divided by all letters.
    """
    words, others = _clean(first).split(), _clean(second).split()
    if set(words).isdisjoint(others):
        one, other = " ".join(sorted(set(words))), " ".join(sorted(set(others)))
        common = sum((Counter(one) & Counter(other)).values())
        if round(200 * common / max(len(one) + len(other), 1)) <= MATCH_THRESHOLD:
            return False
    return token_set_ratio(first, second) > MATCH_THRESHOLD


@lru_cache(maxsize=1 << 16)
def token_set_ratio(first: str, second: str) -> int:
    """Similarity of two texts as sets of words, 0 to 100; 100 if one set contains the other.

    Example:
        >>> token_set_ratio("navy blue", "Blue, navy!"), token_set_ratio("black", "rose gold")
        (100, 14)
    """
    first, second = _clean(first), _clean(second)
    if not first or not second:
        return 0
    words, others = set(first.split()), set(second.split())
    shared = " ".join(sorted(words & others))
    only_first = f"{shared} {' '.join(sorted(words - others))}".strip()
    only_second = f"{shared} {' '.join(sorted(others - words))}".strip()
    return max(_ratio(shared, only_first), _ratio(shared, only_second), _ratio(only_first, only_second))


def _clean(text: str) -> str:
    return _NOT_A_WORD_CHARACTER.sub(" ", text.translate(_LATIN_1_UPPER_HALF)).lower().strip()


def _ratio(first: str, second: str) -> int:
    if first == second:
        return 100
    if not first or not second:
        return 0
    return round(100 * SequenceMatcher(None, first, second).ratio())
