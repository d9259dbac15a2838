"""A tokenizer with one id per byte, and one for each marker of reasoning and calls, as many chat models have."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.chat.traits import CALL_ID

MARKERS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
CALLS = (  # writes and reads what Qwen writes and reads
    "{% if tools %}<|im_start|>system\n# Tools\n<tools>\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "</tools>\nCall as <tool_call>...</tool_call>, think as <think>...</think>.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}{{ '\n' if m.content }}"
    '<tool_call>\n{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def marked_tokenizer(template: str = CALLS) -> PreTrainedTokenizerFast:
    """The markers are added tokens and not special ones, as in Qwen3; the token that ends a text ends no reply."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    tokenizer.chat_template = template
    return tokenizer


def written(tokenizer, content: str, *calls) -> tuple[int, ...]:
    """What the template writes after the generation prompt, up to the next message."""
    reply = {"role": "assistant", "content": content}
    if calls:
        reply["tool_calls"] = [{"id": CALL_ID, "type": "function", "function": call} for call in calls]
    ask, answer = {"role": "user", "content": "a"}, {"role": "tool", "content": "b"}
    settings = {"tools": [{"name": "find"}], "tokenize": False}
    head = tokenizer.apply_chat_template([ask], add_generation_prompt=True, **settings)
    whole = tokenizer.apply_chat_template([ask, reply, answer], **settings)
    assert whole.startswith(head)
    ids = tuple(tokenizer.encode(whole[len(head) :], add_special_tokens=False))
    return ids[: ids.index(tokenizer.convert_tokens_to_ids("<|im_end|>")) + 1]


def calling(form: str, before: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """The same, but its template writes a call in another form.

    Args:
        form: Template of one call, with ``call.id``, ``call.function.name`` and ``call.function.arguments``.
        before: Further markers that are added tokens.
    """
    start = CALLS.index("<tool_call>\n{")
    stop = CALLS.index("{% endfor %}<|im_end|>")
    tokenizer = marked_tokenizer(CALLS[:start] + form + CALLS[stop:])
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in before])
    return tokenizer


def real_tokenizers(names: str = "*") -> Iterator[tuple[str, PreTrainedTokenizerBase]]:
    """Names and tokenizers of the folders ``NAME/package/models`` in ``HERO_PL_TOKENIZERS``, those with a template."""
    folders = sorted(Path(os.environ.get("HERO_PL_TOKENIZERS", "nowhere")).glob(f"{names}/package/models"))
    if not folders:
        pytest.skip(f"HERO_PL_TOKENIZERS names no folder with {names}/package/models of real tokenizers")
    for folder in folders:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if tokenizer.chat_template is not None:
            yield folder.parts[-3], tokenizer
