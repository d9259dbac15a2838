"""The shop's tokenizer encodes any text without loss."""

import pytest

from hero_pl.pocket.tokenizer import train_tokenizer

TEXTS = ["click[red]", "wool kettle ; color: red | blue", "search[kettle]", "  two  blanks"] * 20


@pytest.mark.parametrize("text", [*TEXTS[:4], "Grüße, 世界 🙂", "tab\tand\nline", "", " leading", "<|im_end|"])
def test_every_text_comes_back_also_one_made_of_bytes(text, tiny_policy):
    policy = tiny_policy()
    policy.load()
    trained = train_tokenizer(TEXTS, 400, ["click["])
    for tokenizer in (trained, policy.template.tokenizer):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text


def test_a_whole_string_is_one_piece_and_control_tokens_are_special():
    tokenizer = train_tokenizer(TEXTS, 400, ["click["])
    assert len(tokenizer.encode("click[", add_special_tokens=False)) == 1
    assert tokenizer.eos_token == "<|im_end|>"
    assert len(tokenizer.encode("<|im_end|>", add_special_tokens=False)) == 1


def test_a_saved_tokenizer_is_an_ordinary_one(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = train_tokenizer(TEXTS, 400)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])
    assert again.chat_template == tokenizer.chat_template
