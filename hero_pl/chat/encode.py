"""Encode text so that nothing from outside can become a control token.

Users, tools and products write text. A chat template separates messages by control tokens. If the text
``<|im_end|>`` from a product title were encoded like the template's own, a web page could end the user's message and
speak as the assistant. Here outside text is cut inside every such string before it is encoded, so its letters reach
the model but the control id never does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hero_pl.errors import PolicyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        self.defused = 0
        """How many control-token strings in outside text were taken apart so far."""

    def glue(self, text: str) -> tuple[int, ...]:
        """Ids of the template's own text; control tokens are recognised."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False)) if text else ()

    def outside(self, text: str) -> tuple[int, ...]:
        """Ids of text from users, tools, products or models; never a control id.

        Lone surrogates (possible in decoded JSON) are replaced by U+FFFD, since no tokenizer can encode them.

        Raises:
            PolicyError: The tokenizer still yields a control id, even letter by letter.
        """
        text = text.encode("utf-8", "replace").decode("utf-8") if has_surrogate(text) else text
        ids: list[int] = []
        for part in self._parts(text):
            ids += self._encode_plain(part)
        return tuple(ids)

    def _parts(self, text: str) -> list[str]:
        if self._control is None or not text:
            return [text] if text else []
        parts, start, position = [], 0, 0
        while match := self._control.search(text, position):
            cut = match.start() + 1
            parts.append(text[start:cut])
            start, position = cut, cut
            self.defused += 1
        parts.append(text[start:])
        return [part for part in parts if part]

    def _encode_plain(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        if self.control_ids.isdisjoint(ids):
            return ids
        # A normaliser (NFKC, say) rebuilt a control string that the search could not see.
        self.defused += 1
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
    """Whether ``text`` holds half a surrogate pair, which no tokenizer can encode."""
    return any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)
