"""The Porter stemmer in the variant of Lucene's English analyzer.

The algorithm is M. F. Porter, "An algorithm for suffix stripping" (1980), with the two departures of the author's own
later code: ``bli -> ble`` (not ``abli -> able``) and ``logi -> log``. Words of one or two characters stay as they are.
"""

from functools import lru_cache

_STEP_2 = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("logi", "log"),
)
_STEP_3 = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
_STEP_4 = (
    *("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism"),
    *("ate", "iti", "ous", "ive", "ize"),
)


@lru_cache(maxsize=1 << 18)
def stem(word: str) -> str:
    """The stem of a lower-case word.

    Example:
        >>> [stem(word) for word in ("ponies", "hopping", "relational", "possibly", "sky")]
        ['poni', 'hop', 'relat', 'possibl', 'sky']
    """
    if len(word) < 3:
        return word
    word = _plurals_and_participles(word)
    if word.endswith("y") and _has_vowel(word[:-1]):
        word = word[:-1] + "i"
    word = _replace_suffix(word, _STEP_2)
    word = _replace_suffix(word, _STEP_3)
    return _tidy_end(_drop_suffix(word))


def _plurals_and_participles(word: str) -> str:
    if word.endswith(("sses", "ies")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            return _restore_end(rest) if _has_vowel(rest) else word
    return word


def _restore_end(rest: str) -> str:
    """After removing ``-ed`` or ``-ing``: ``conflat`` to ``conflate``, ``hopp`` to ``hop``, ``fil`` to ``file``."""
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if _double_consonant(rest):
        return rest if rest[-1] in "lsz" else rest[:-1]
    return rest + "e" if _measure(rest) == 1 and _short_syllable(rest) else rest


def _replace_suffix(word: str, table: tuple[tuple[str, str], ...]) -> str:
    """Replace the matching suffix of the table if the rest of the word has a vowel-consonant sequence."""
    for suffix, replacement in table:
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            return rest + replacement if _measure(rest) > 0 else word
    return word


def _drop_suffix(word: str) -> str:
    for suffix in _STEP_4:
        if word.endswith(suffix):
            rest = word[: -len(suffix)]
            if suffix == "ion" and not rest.endswith(("s", "t")):
                continue
            return rest if _measure(rest) > 1 else word
    return word


def _tidy_end(word: str) -> str:
    if word.endswith("e"):
        rest = word[:-1]
        size = _measure(rest)
        if size > 1 or (size == 1 and not _short_syllable(rest)):
            word = rest
    if word.endswith("ll") and _measure(word) > 1:
        word = word[:-1]
    return word


def _shape(word: str) -> str:
    """``c`` or ``v`` per letter; ``y`` is a vowel after a consonant. All other characters are consonants."""
    shape = ""
    for i, letter in enumerate(word):
        vowel = letter in "aeiou" or (letter == "y" and i > 0 and shape[-1] == "c")
        shape += "v" if vowel else "c"
    return shape


def _measure(rest: str) -> int:
    """Number of vowel-consonant sequences."""
    return _shape(rest).count("vc")


def _has_vowel(rest: str) -> bool:
    return "v" in _shape(rest)


def _double_consonant(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _shape(word)[-1] == "c"


def _short_syllable(word: str) -> bool:
    """Whether the word ends with consonant, vowel, consonant, where the last is not ``w``, ``x`` or ``y``."""
    return _shape(word).endswith("cvc") and word[-1] not in "wxy"
