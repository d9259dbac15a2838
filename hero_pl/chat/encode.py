"""Encode text so that nothing from outside can become a control token.

Users, tools and products write text. A chat template separates messages by control tokens. If the text
``<|im_end|>`` from a product title were encoded like the template's own, a web page could end the user's message and
speak as the assistant. Here outside text is cut inside every such string before it is encoded, so its letters reach
the model but the control id never does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hero_pl.errors import PolicyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SURROGATE = re.compile("[\ud800-\udfff]")


class Encoder:
    """Text to ids, in two voices: the template's own text, and text from outside.

    Args:
        tokenizer: A Hugging Face tokenizer. Every added token of it counts as a control token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.control_ids: frozenset[int] = frozenset(tokenizer.added_tokens_decoder) | frozenset(
            tokenizer.all_special_ids
        )
        surfaces = {str(token.content) for token in tokenizer.added_tokens_decoder.values()}
        surfaces |= set(tokenizer.all_special_tokens)
        longest_first = sorted((s for s in surfaces if s), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def encode_template(self, text: str) -> tuple[int, ...]:
        """Ids of the template's own text; control tokens are recognized."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False)) if text else ()

    def encode_untrusted(self, text: str) -> tuple[int, ...]:
        """Ids of text from users, tools, products or models; never a control id.

        Halves of surrogate pairs (possible in decoded JSON) go through :func:`scrub`.

        Raises:
            PolicyError: The tokenizer still yields a control id, even letter by letter.
        """
        text = scrub(text)
        cuts = [0, *self._cuts(text), len(text)]
        ids: list[int] = []
        for start, stop in itertools.pairwise(cuts):
            if start < stop:
                ids += self._encode_plain(text[start:stop])
        return tuple(ids)

    def mentions_control(self, text: str) -> int:
        """How often ``text`` spells a control token, that is, how often :meth:`encode_untrusted` takes one apart."""
        return sum(1 for _ in self._cuts(text))

    def _cuts(self, text: str) -> Iterator[int]:
        """Places behind the first letter of every control-token string."""
        position = 0
        while self._control is not None and (match := self._control.search(text, position)):
            position = match.start() + 1
            yield position

    def _encode_plain(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        if self.control_ids.isdisjoint(ids):
            return ids
        # A normalizer (NFKC, say) rebuilt a control string that the search could not see.
        letters: list[int] = []
        for letter in text:
            one: list[int] = self.tokenizer.encode(letter, add_special_tokens=False)
            if not self.control_ids.isdisjoint(one):
                if len(one) == 1 and one[0] == self.tokenizer.unk_token_id:
                    letters += one  # the letter is unknown to the tokenizer; it separates nothing
                    continue
                raise PolicyError(
                    f"The tokenizer encodes the single character {letter!r} as control token {one}. Text from outside "
                    "could then speak as the template. Use a tokenizer whose control tokens are longer strings."
                )
            letters += one
        return letters

    def decode(self, ids: tuple[int, ...]) -> str:
        """Text of sampled ids without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def has_surrogate(text: str) -> bool:
    """Whether ``text`` holds half of a surrogate pair, which no tokenizer can encode."""
    return _SURROGATE.search(text) is not None


def scrub(text: str) -> str:
    r"""Join surrogate pairs and put U+FFFD in the place of lone surrogates; any other text stays as it is.

    Example:
        >>> scrub("\ud83d\ude00 \ud83d") == "\U0001f600 \ufffd"
        True
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if has_surrogate(text) else text
