"""Train a SentencePiece tokenizer on the texts of an environment, as an ordinary Hugging Face tokenizer."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hero_pl.chat.byte_tokenizer import with_chatml

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BLANK = "\u2581"


def train_tokenizer(texts: Iterable[str], vocabulary: int, whole: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """Train a unigram tokenizer with byte fallback, so that any text can be encoded.

    Args:
        texts: Training texts.
        vocabulary: Total number of pieces, including the 256 bytes; a small corpus gives fewer.
        whole: Strings that become one piece each, for example frequent parts of the review format.

    Returns:
        A tokenizer with a ChatML template, whose control tokens are ``<|pad|>``, ``<|im_start|>``, ``<|im_end|>``.
    """
    import sentencepiece
    from tokenizers import Tokenizer, decoders, models, normalizers

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=vocabulary,
        hard_vocab_limit=False,
        model_type="unigram",
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=list(whole),
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    # sentencepiece keeps spaces in user-defined pieces; in other pieces they are the visible blank
    scores = [(pieces.id_to_piece(i).replace(" ", BLANK), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=pieces.unk_id(), byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", BLANK)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()])
    return with_chatml(tokenizer)
