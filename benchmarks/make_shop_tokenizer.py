"""Train the tokenizer of the pocket shop policies: ``python benchmarks/make_shop_tokenizer.py FOLDER``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hero_pl.chat.actions import ActionParser
from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.chat.template import ChatTemplate
from hero_pl.pocket.shop.demonstrations import ShopDemonstrations
from hero_pl.pocket.tokenizer import train_tokenizer
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.demonstrations import Demonstrations
from hero_pl.rollout.specs import EpisodeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ENV = "hero_pl/WebShopPocket-v0"
GLUE = (
    '{"turn1": {"diagnosis": "',
    *(f', "turn{i}": {{"diagnosis": "' for i in range(2, 13)),
    '", "confidence": "high", "next_action_target": null}',
    '", "confidence": "high", "next_action_target": {"name": "click", "arguments": {"element": "',
    '", "confidence": "high", "next_action_target": {"name": "search", "arguments": {"query": "',
    '"}}}',
    "click[",
    "search[",
    "find: buy a ",
    " with color: ",
    ", and size: ",
    " ; color: ",
    " ; size: ",
    " ; color ",
    " ; size ",
    " ; buy now",
    "buy now",
    "< prev",
    "back to search",
    " | ",
    "results: ",
    "error: ",
    "right: ",
    "wrong: ",
    "wasted: ",
    "invalid: ",
    "review: reward ",
    "note:",
    " then ",
    " reward ",
    " right: ",
    " wrong: ",
    " wasted: ",
    " invalid: ",
    " do ",
    " ",
    "system\n",
    "user\n",
    "assistant\n",
)
"""Strings of the shop and of the review format that become one piece each.

They include their spaces, so that a word is the same piece at every position: a small policy has to copy words, and
copying an id is what attention learns first."""


def learn(
    demonstrations: Demonstrations,
    collector: Collector,
    parser: ActionParser | None,
    glue: Sequence[str],
    vocabulary: int,
    episodes: int = 400,
) -> PreTrainedTokenizerFast:
    """Train on the first warm-up episodes; the strings above and all words become one piece each."""
    policy = ScriptedPolicy([""], ChatTemplate(byte_tokenizer()), parser)
    policy.load()
    specs = [EpisodeSpec(task, i, 1 + i) for i, task in enumerate(collector.task_ids[:episodes])]
    rows = demonstrations.make(specs, policy.dialect, collector)
    texts = [
        line
        for row in rows
        for turn in row.turns
        for line in (policy.template.encoder.decode(turn.prompt_ids) + turn.text).split("\n")
    ]
    words = sorted({word for line in texts for word in re.findall(r"[A-Za-z]{2,}", line)})
    return train_tokenizer(texts, vocabulary, dict.fromkeys([*glue, *words]))


def main(folder: Path) -> None:
    """Train the tokenizer and save it."""
    tokenizer = learn(ShopDemonstrations(), Collector(ENV, split="warmup"), None, GLUE, 768)
    tokenizer.save_pretrained(folder)
    print(f"{len(tokenizer)} ids saved to {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
