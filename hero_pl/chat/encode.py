"""Encode text so that outside text never becomes a control token.

Outside text comes from users, tools and products. A chat template separates messages by control tokens. If the text
``<|im_end|>`` in a product title were encoded like the template's own, a web page could end the user's message and
write the assistant's reply. Therefore outside text is split inside every such string before it is encoded: the model
sees the same characters, but never the control id. A tokenizer that adds a space before every text (SentencePiece) does
not add one in the middle of a prompt.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hero_pl.errors import PolicyError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SURROGATE = re.compile("[\ud800-\udfff]")
_MARKER = re.compile(r"[^\w\s](?:.*\w.*)[^\w\s]", re.DOTALL)
"""Pattern of a marker such as ``<start>`` or ``[INST]``; does not match runs of spaces, words or dashes."""
_PIPED = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)
"""Strings of this form are always control tokens."""
_SPOKEN = re.compile(r"think|thought|reason|tool|call|func|python|action|args|channel|message", re.IGNORECASE)
"""Words in the special tokens that mark reasoning and tool calls; decoding keeps these for the parser."""
_ANCHORS = ("\n", "\t", "\x01", "|")
"""Characters that rarely merge with the text after them."""

_OUTSIDE = "\0"
"""Stands for a character of outside text; no control token contains it."""


class Encoder:
    """Encodes the template's own text and outside text.

    Control tokens are the special tokens of the tokenizer, and other added tokens that look like a marker and occur in
    the chat template, or that have the form ``<|...|>``. The remaining added tokens (line breaks, runs of spaces, HTML
    tags) are text.

    Args:
        tokenizer: A Hugging Face tokenizer.
        template_text: Text that the chat template can write; default: its source.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template_text: str | None = None) -> None:
        self.tokenizer = tokenizer
        written = str(tokenizer.chat_template or "") if template_text is None else template_text
        control = set(tokenizer.all_special_tokens)
        for token in tokenizer.added_tokens_decoder.values():
            text = str(token.content)
            if token.special or _PIPED.fullmatch(text) or (_MARKER.fullmatch(text) and text in written):
                control.add(text)
        self.control: dict[str, int] = {
            text: int(tokenizer.convert_tokens_to_ids(text))  # type: ignore[arg-type]
            for text in sorted(control, key=len, reverse=True)
            if text
        }
        """Text of each control token, longest first, and its id."""
        self.control_ids: frozenset[int] = frozenset(self.control.values())
        self.end_ids: frozenset[int] = frozenset({tokenizer.eos_token_id} - {None})
        """Ids that end a reply; the chat template adds its own."""
        self._control = re.compile("|".join(map(re.escape, self.control))) if self.control else None
        hidden = {i for i in tokenizer.all_special_ids} | {
            i for i, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        spoken = {i for text, i in self.control.items() if _SPOKEN.search(text)}
        self._silent_ids = frozenset(hidden - spoken)
        self._anchor = self._find_anchor()

    # -- text to ids -------------------------------------------------------------------------------------------

    def encode_template(self, text: str, after: int | None = None) -> tuple[int, ...]:
        """Ids of the template's own text; control tokens are recognized.

        Args:
            text: Text written by the template.
            after: The id before the text; default: the text begins a prompt.
        """
        return self.encode_rendered(text, text, after)

    def encode_untrusted(self, text: str) -> tuple[int, ...]:
        """Ids of text from users, tools, products or models, in the middle of a prompt; never a control id.

        Lone surrogates (possible in decoded JSON) are replaced, see :func:`scrub`.

        Raises:
            PolicyError: The tokenizer returns a control id even for single characters.
        """
        text = scrub(text)
        return tuple(
            itertools.chain.from_iterable(
                self._encode_plain(piece) for piece in _pieces(text, [cut for cut, _ in self._cuts(text)])
            )
        )

    def encode_rendered(self, text: str, marked: str, after: int | None = None) -> tuple[int, ...]:
        """Ids of a rendered conversation; only control tokens that the template itself wrote are recognized.

        Args:
            text: The rendered text.
            marked: The same text with other characters for outside text (:mod:`hero_pl.chat.render`).
            after: The id before the text; default: the text begins a prompt.

        Raises:
            PolicyError: The tokenizer returns another control id even for single characters.
        """
        if not text:
            return ()
        cuts = [cut for cut, end in self._cuts(text, marked)]
        ids: list[int] = []
        position = 0
        for piece in _pieces(text, cuts):
            own = marked[position : position + len(piece)]
            if position or after is not None:
                got = self._encode_after(piece, after if position == 0 else None)
            else:
                got = self._encode(piece)
            expected = sum(1 for _ in self._found(piece))
            if sum(i in self.control_ids for i in got) > expected + self._unknown(got):
                got = self._encode_apart(piece, own)
            ids += got
            position += len(piece)
        return tuple(ids)

    def encode_reply(self, text: str, markers: Sequence[tuple[int, int]], after: int | None = None) -> tuple[int, ...]:
        """Ids of outside text in which some places may be control tokens.

        Args:
            text: The text, without lone surrogates.
            markers: Start and end index of the places where control tokens are recognized.
            after: The id before the text.
        """
        own = [_OUTSIDE] * len(text)
        for start, stop in markers:
            own[start:stop] = text[start:stop]
        return self.encode_rendered(text, "".join(own), after)

    def mentions_control(self, text: str) -> int:
        """Number of control token strings in ``text``, which :meth:`encode_untrusted` splits."""
        return sum(1 for _ in self._cuts(text))

    def template_controls(self, text: str, marked: str) -> list[str]:
        """The control tokens of a rendered text that the template itself wrote, in order."""
        foreign = {cut - 1 for cut, _ in self._cuts(text, marked)}
        return [match.group() for match in self._found(text, foreign)]

    def parts(self, text: str) -> list[str]:
        """A template's own text, cut before and behind every control token."""
        cuts = [cut for match in self._found(text) for cut in match.span()]
        return list(_pieces(text, cuts))

    # -- ids to text -------------------------------------------------------------------------------------------

    def decode(self, ids: Sequence[int]) -> str:
        """Exact text of sampled ids, except for the space that some tokenizers add before every text.

        Leaves out ids that end the reply and special tokens that no parser uses; keeps special tokens that mark
        reasoning or a call.
        """
        kept = [i for i in ids if i not in self.end_ids and i not in self._silent_ids]
        spelled, alone = self.spell(kept), self._decode(kept)
        return alone if spelled == f" {alone}" else spelled

    def spell(self, ids: Sequence[int]) -> str:
        """Text of ids in the middle of a prompt, with all special tokens."""
        if self._anchor is None:
            return self._decode(ids)
        return self._decode([*self._anchor[1], *ids]).removeprefix(self._decode(self._anchor[1]))

    # -- details -----------------------------------------------------------------------------------------------

    def _found(self, text: str, foreign: set[int] | frozenset[int] = frozenset()) -> Iterator[re.Match[str]]:
        position = 0
        while self._control is not None and (match := self._control.search(text, position)):
            position = match.start() + 1 if match.start() in foreign else match.end()
            if match.start() not in foreign:
                yield match

    def _cuts(self, text: str, marked: str | None = None) -> Iterator[tuple[int, int]]:
        """Index after the first character of every control string in outside text, and the index of its end."""
        position = 0
        while self._control is not None and (match := self._control.search(text, position)):
            own = marked is not None and marked[match.start() : match.end()] == match.group()
            position = match.end() if own else match.start() + 1
            if not own:
                yield position, match.end()

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def _find_anchor(self) -> tuple[str, list[int]] | None:
        """A prefix, with its ids, after which text is encoded as in the middle of a prompt; ``None`` if not needed."""
        samples = ("a", "x y", "[", " a")
        alone = [self._encode(sample) for sample in samples]
        kept = self._decode(alone[-1]) == samples[-1]  # some decoders remove a space
        for anchor in _ANCHORS:
            ids = self._encode(anchor)
            tails = [self._encode(anchor + sample) for sample in samples]
            if ids and all(tail[: len(ids)] == ids for tail in tails):
                return None if kept and [tail[len(ids) :] for tail in tails] == alone else (anchor, ids)
        return None

    def _encode_after(self, text: str, before: int | None) -> list[int]:
        """Ids of a text after the id ``before`` (``None``: after other text)."""
        if before is not None and before in self.control_ids:
            surface = self._encode(self._decode([before]))
            whole = self._encode(self._decode([before]) + text)
            if surface and surface[-1] == before and whole[: len(surface)] == surface:
                return whole[len(surface) :]
        if self._anchor is not None:
            anchor, ids = self._anchor
            whole = self._encode(anchor + text)
            if whole[: len(ids)] == ids:
                return whole[len(ids) :]
        return self._encode(text)

    def _encode_apart(self, text: str, marked: str) -> list[int]:
        """Encode each control token of the template separately, and the text between them, by characters if needed."""
        ids: list[int] = []
        position = 0
        for match in self._found(text):
            ids += self._encode_plain(text[position : match.start()])
            ids.append(self.control[match.group()])
            position = match.end()
        return ids + self._encode_plain(text[position:])

    def _encode_plain(self, text: str) -> list[int]:
        if not text:
            return []
        ids = self._encode_after(text, None)
        if self.control_ids.isdisjoint(ids):
            return ids
        # A normalizer (for example NFKC) produced a control string that the search could not find.
        letters: list[int] = []
        for letter in text:
            one = self._encode_after(letter, None)
            if self._unknown(one) < sum(i in self.control_ids for i in one):
                raise PolicyError(
                    f"The tokenizer encodes the single character {letter!r} as control token {one}, so outside text "
                    "could become a control token. Use a tokenizer whose control tokens are longer strings."
                )
            letters += one
        return letters

    def _unknown(self, ids: Sequence[int]) -> int:
        """Number of unknown-token ids, which stand for characters outside the vocabulary and are no control tokens."""
        return sum(i == self.tokenizer.unk_token_id for i in ids)


def has_surrogate(text: str) -> bool:
    """Whether ``text`` contains a surrogate, which no tokenizer can encode."""
    return _SURROGATE.search(text) is not None


def scrub(text: str) -> str:
    r"""Join surrogate pairs and replace lone surrogates by U+FFFD; all other text is unchanged.

    Example:
        >>> scrub("\ud83d\ude00 \ud83d") == "\U0001f600 \ufffd"
        True
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if has_surrogate(text) else text


def _pieces(text: str, cuts: Sequence[int]) -> Iterator[str]:
    for start, stop in itertools.pairwise([0, *cuts, len(text)]):
        if start < stop:
            yield text[start:stop]
