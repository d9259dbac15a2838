"""A tokenizer with one id per byte and a ChatML template: needs no file and no training, encodes any text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hero_pl.chat.template import CHATML, CHATML_TOKENS

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Tokenizer with one id per byte plus ``<|pad|>``, ``<|im_start|>`` and ``<|im_end|>`` (vocabulary 259)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return with_chatml(tokenizer)


def with_chatml(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Wrap a tokenizer as a Hugging Face one, with a ChatML template and its control tokens as the last ids.

    Args:
        tokenizer: Tokenizer without control tokens.
    """
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CHATML_TOKENS])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=CHATML_TOKENS[0],
        eos_token=CHATML_TOKENS[2],
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )
