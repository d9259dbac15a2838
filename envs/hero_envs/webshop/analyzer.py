"""Convert text to index terms, identical to those of Lucene's English analyzer.

Unicode word segmentation (UAX 29 as in Lucene's StandardTokenizer), removal of possessive ``'s``, lower case, removal
of stop words, Porter stem.
"""

import re
import sys
import unicodedata
from functools import lru_cache

from hero_envs.webshop.porter import stem

_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such "
    "that the their then there these they this to was will with"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
MAX_TOKEN_LENGTH = 255
"""Longer tokens are split into pieces of this many characters."""

_ASCII_WORD = re.compile(r"[A-Za-z0-9_]+(?:(?:(?<=[A-Za-z])[.:'](?=[A-Za-z])|(?<=[0-9])[.,;'](?=[0-9]))[A-Za-z0-9_]+)*")
_MID_LETTER = ":\u00b7\u0387\u055f\u05f4\u2027\ufe13\ufe55\uff1a"
_MID_NUMBER = ",;\u037e\u0589\u060c\u060d\u066c\u07f8\u2044\ufe10\ufe14\ufe50\ufe54\uff0c\uff1b"
_MID_BOTH = ".'\u2018\u2019\u2024\ufe52\uff07\uff0e"
_KATAKANA_EXTRA = "\u3031\u3032\u3033\u3034\u3035\u309b\u309c\u30a0\u30fc\uff70"
_PICTOGRAPHS = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u2388\u23cf\u23e9-\u23f3\u23f8-\u23fa"
    "\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2714\u2716\u271d"
    "\u2721\u2728\u2733\u2734\u2744\u2747\u274c\u274e\u2753-\u2755\u2757\u2763-\u2767\u2795-\u2797\u27a1\u27b0\u27bf\u2934"
    "\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\u3297\u3299\U0001f000-\U0001f0ff\U0001f10d-\U0001f10f\U0001f12f"
    "\U0001f16c-\U0001f171\U0001f17e\U0001f17f\U0001f18e\U0001f191-\U0001f19a\U0001f1ad-\U0001f1e5\U0001f201-\U0001f20f"
    "\U0001f21a\U0001f22f\U0001f232-\U0001f23a\U0001f23c-\U0001f23f\U0001f249-\U0001f3fa\U0001f400-\U0001f53d"
    "\U0001f546-\U0001f64f\U0001f680-\U0001f6ff\U0001f774-\U0001f77f\U0001f7d5-\U0001f7ff\U0001f80c-\U0001f80f"
    "\U0001f848-\U0001f84f\U0001f85a-\U0001f85f\U0001f888-\U0001f88f\U0001f8ae-\U0001f8ff\U0001f90c-\U0001f93a"
    "\U0001f93c-\U0001f945\U0001f947-\U0001faff\U0001fc00-\U0001fffd"
)
_ONE_EACH = ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA LETTER", "IDEOGRAPHIC")
_NO_SPACES = ("THAI ", "LAO ", "KHMER ", "MYANMAR ", "TAI LE ", "NEW TAI LUE ", "TAI THAM ", "TAI VIET ")


def terms(text: str) -> list[str]:
    """Index terms of a text in order, with duplicates.

    Example:
        >>> terms("The ponytail's wrap, 5.5 tall: installing it with T-shirts")
        ['ponytail', 'wrap', '5.5', 'tall', 'instal', 't', 'shirt']
    """
    return [term for token in tokens(text) if (term := _term(token))]


def tokens(text: str) -> list[str]:
    """Words of a text before any of them is changed or removed."""
    if text.isascii():
        matches = _ASCII_WORD.findall(text)
    else:
        matches = [match[0] for match in _unicode_word().finditer(text) if match[1] is None]
    out: list[str] = []
    for token in matches:
        for start in range(0, len(token), MAX_TOKEN_LENGTH):
            piece = token[start : start + MAX_TOKEN_LENGTH]
            if piece[0] != "_" or piece.strip("_"):
                out.append(piece)
    return out


@lru_cache(maxsize=1 << 18)
def _term(token: str) -> str:
    if token[-2:] in ("'s", "’s", "＇s", "'S", "’S", "＇S"):
        token = token[:-2]
    token = token.lower() if token.isascii() else "".join(map(_lower, token))
    return "" if token in STOP_WORDS else stem(token)


def _lower(character: str) -> str:
    """Lower case of one character as one character, as in Java."""
    return character.lower()[0]


@lru_cache(maxsize=1)
def _unicode_word() -> re.Pattern[str]:
    """The segmentation as one regular expression, built at the first text that is not ASCII."""
    letters, digits, katakana, extend, ideographs, no_spaces, connectors = (_ranges(c) for c in _classify())
    e = f"[{extend}]*"
    letter, digit, kana, connector = (f"[{c}]{e}" for c in (letters, digits, katakana, connectors))
    mid_letter, mid_digit = f"[{_MID_LETTER}{_MID_BOTH}]{e}", f"[{_MID_NUMBER}{_MID_BOTH}]{e}"
    links = f"(?:{connector})*"
    word = (
        f"(?:{kana}(?:{links}{kana})*"
        f"|(?:{digit}(?:(?:{links}|{mid_digit}){digit})*|{letter}(?:(?:{links}|{mid_letter}){letter})*)+)"
    )
    picture = f"[{_PICTOGRAPHS}][\U0001f3fb-\U0001f3ff]?{e}"
    return re.compile(
        f"{links}{word}(?:(?:{connector})+{word})*{links}|((?:{connector})+)"  # the group: links alone are not a word
        f"|[{ideographs}]{e}|(?:[{no_spaces}]{e})+"
        f"|[\U0001f1e6-\U0001f1ff]{e}[\U0001f1e6-\U0001f1ff]{e}"
        f"|[0-9#*]\ufe0f?\u20e3|{picture}(?:(?<=\u200d){picture})*"
    )


def _classify() -> tuple[list[int], ...]:
    """Code points of letters, digits, katakana, extenders, ideographs, scripts without spaces, and links."""
    groups: tuple[list[int], ...] = ([], [], [], [], [], [], [])
    letters, digits, katakana, extend, ideographs, no_spaces, connectors = groups
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        category = unicodedata.category(character)
        if category in ("Cn", "Co", "Cs", "Zs", "Cc"):
            continue
        if category in ("Mn", "Me", "Mc") or (category == "Cf" and code != 0x200B):
            extend.append(code)
        elif category == "Nd" or code == 0x066B:
            digits.append(code)
        elif category == "Pc":
            connectors.append(code)
        elif character in _KATAKANA_EXTRA:
            katakana.append(code)
        elif category[0] == "L" or category == "Nl" or 0x24B6 <= code <= 0x24E9:
            name = unicodedata.name(character, "")
            if name.startswith(_ONE_EACH):
                ideographs.append(code)
            elif "KATAKANA" in name:
                katakana.append(code)
            elif name.startswith(_NO_SPACES):
                no_spaces.append(code)
            else:
                letters.append(code)
    return groups


def _ranges(codes: list[int]) -> str:
    """Sorted code points as the content of a character class."""
    parts: list[str] = []
    start = previous = codes[0]
    for code in [*codes[1:], -1]:
        if code != previous + 1:
            parts.append(re.escape(chr(start)) + ("-" + re.escape(chr(previous)) if previous > start else ""))
            start = code
        previous = code
    return "".join(parts)
