"""Nouns of product titles: the only part of the benchmark that needs a language model.

The original tags titles with spaCy. There are three extractors, and every result names its extractor: ``spacy`` (the
optional extra, with the same tags; the default for the official data), a *table* computed once with spaCy, and
``rules`` (built in, an approximation).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

NounRule = Callable[[str], list[str]]
"""Function from a title to its lower-case nouns in order, with duplicates."""


class Nouns:
    """A noun rule with a name and a cache.

    Args:
        rule: Function from a title to its nouns.
        name: Name in results.
    """

    def __init__(self, rule: NounRule, name: str) -> None:
        self._rule = rule
        self.name = name
        self._known: dict[str, tuple[list[str], frozenset[str]]] = {}

    def of(self, title: str) -> tuple[list[str], frozenset[str]]:
        """Nouns of a title as a list and as a set."""
        if (known := self._known.get(title)) is None:
            nouns = self._rule(title)
            known = self._known[title] = (nouns, frozenset(nouns))
        return known


def get_nouns(choice: str | Nouns | NounRule | Mapping[str, list[str]]) -> Nouns:
    """Resolve the ``nouns`` option of the environment.

    Args:
        choice: ``"rules"``, ``"spacy"`` or ``"spacy:MODEL"``, the path of a JSON table (title -> nouns), such a
            table, a callable, or a :class:`Nouns`.

    Raises:
        ValueError: The choice is not one of these, or the table is not an object of lists.
        ImportError: spaCy or its model is not installed.
    """
    if isinstance(choice, Nouns):
        return choice
    if isinstance(choice, Mapping):
        return _from_table(choice, "table")
    if callable(choice):
        return Nouns(choice, getattr(choice, "__name__", "custom"))
    if choice == "rules":
        return Nouns(rule_nouns, "rules")
    if choice == "spacy" or choice.startswith("spacy:"):
        model = choice.partition(":")[2] or "en_core_web_sm"
        return Nouns(_spacy_rule(model), f"spacy:{model}")
    if choice.endswith(".json"):
        try:
            table = json.loads(Path(choice).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"nouns={choice!r}: not a readable JSON table of titles and nouns ({error}).") from error
        return _from_table(table, f"table:{Path(choice).name}", choice)
    raise ValueError(
        f'nouns={choice!r}: expected "rules", "spacy", "spacy:MODEL" or the path of a .json table of titles and nouns.'
    )


def _from_table(table: object, name: str, place: str = "") -> Nouns:
    if not isinstance(table, Mapping) or not all(isinstance(v, list) for v in table.values()):
        raise ValueError(f"Noun table {place or name}: expected a JSON object, title -> list of lower-case nouns.")

    def look_up(title: str) -> list[str]:
        try:
            return list(table[title])
        except KeyError:
            raise ValueError(
                f"Noun table {name} has no entry for the title {title[:80]!r}. Write it again for this catalog, "
                'or use nouns="rules".'
            ) from None

    return Nouns(look_up, name)


@functools.cache
def _spacy_rule(model: str) -> NounRule:
    try:
        import spacy

        tagger = spacy.load(model)
    except (ImportError, OSError) as error:
        raise ImportError(
            f'nouns="spacy:{model}" (the default for the official data, as in the benchmark) needs spaCy and that '
            f'model: pip install "hero_pl[spacy]" and python -m spacy download {model}; or set nouns="rules", whose '
            "rewards are not the benchmark's: one type match in eight to four differs."
        ) from error

    def rule(title: str) -> list[str]:
        return [token.text.lower() for token in tagger(title) if token.pos_ in ("NOUN", "PROPN")]

    return rule


_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_NOT_NOUN_WORDS = (
    "a about above after all also an and any are as at be because been before below between both but by can "
    "could did do does each few for from had has have he her here him his how i if in into is it its just may "
    "me more most must my no nor not of off on once one only or other our out over own per she should so some "
    "such than that the their them then there these they this those through to too under until up upon very "
    "via was we were what when where which while who why will with within without would you your two three "
    "four five six seven eight nine ten active adjustable adult amazing anti assorted authentic available "
    "basic beautiful best better big black blue bright brown casual cheap classic clean clear cold "
    "comfortable comfy compact compatible complete cool cozy custom cute daily dark decorative deep delicious "
    "deluxe disposable double dry dual durable easy easier eco elastic electric electronic elegant essential "
    "everyday exclusive extra fashionable fast fine fit flat flexible foldable formal free fresh friendly "
    "full fun functional funny general genuine gentle good gorgeous gray great green grey handmade happy hard "
    "healthy heavy high hot huge hydrating ideal inch indoor individual inflatable insulated interior "
    "internal large latest lightweight light little long loose lovely low luxurious luxury magnetic main male "
    "female manual matching max medium men's mini mobile modern moisturizing multi multiple multifunctional "
    "natural new nice non old optional orange organic original outdoor perfect personal pink plain plus "
    "popular portable powerful practical premium prepared pretty professional protective pure purple quality "
    "quick quiet rapid ready real rechargeable red refillable regular removable replaceable resistant retro "
    "reusable rich round royal rugged safe sexy sharp short silent simple single sleek slim small smart "
    "smooth soft solid special square stackable standard straight strong stylish suitable super sweet swift "
    "tall thick thin tiny top traditional transparent trendy true ultra unique universal unisex upgraded "
    "useful various vegan versatile vintage warm washable waterproof white whole wide wireless women's yellow "
    "young"
)
_NOT_NOUNS = frozenset(_NOT_NOUN_WORDS.split())
_NOT_NOUN_ENDINGS = ("able", "ible", "ful", "less", "ous", "ic", "ical", "ive", "ish", "ly")


def rule_nouns(title: str) -> list[str]:
    """Nouns by exclusion: words that are not function words, numbers or common adjectives, and do not end like one.

    Example:
        >>> rule_nouns("Portable Waterproof Bluetooth Speaker with 2 USB Ports for the Kitchen")
        ['bluetooth', 'speaker', 'usb', 'ports', 'kitchen']
    """
    words = [word.lower() for word in _WORD.findall(title)]
    return [
        word.removesuffix("'s")
        for word in words
        if len(word) > 1 and word not in _NOT_NOUNS and not (len(word) > 5 and word.endswith(_NOT_NOUN_ENDINGS))
    ]
