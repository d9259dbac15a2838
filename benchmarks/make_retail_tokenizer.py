"""Train the tokenizer of the pocket retail policies: ``python benchmarks/make_retail_tokenizer.py FOLDER``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from make_shop_tokenizer import learn

from hero_envs.tau_bench.prompts import LOOKUP_POLICY, RETAIL_SCHEMAS
from hero_pl.pocket.retail.commands import RetailCommands
from hero_pl.pocket.retail.demonstrations import RetailDemonstrations
from hero_pl.pocket.retail.rules import ENV, ENV_ARGS
from hero_pl.rollout.collect import Collector

GLUE = (
    '{"turn1": {"diagnosis": "',
    *(f', "turn{i}": {{"diagnosis": "' for i in range(2, 13)),
    '", "confidence": "high", "next_action_target": null}',
    '", "confidence": "high", "next_action_target": {"name": "',
    '"}}}',
    '"]}}}',
    "}",
    '", "arguments": {"content": "',
    '", "arguments": {"order_id": "',
    '", "arguments": {"summary": "',
    '", "arguments": {"user_id": "',
    '", "arguments": {"email": "',
    '", "arguments": {"first_name": "',
    '", "last_name": "',
    '", "zip": "',
    '", "reason": "',
    '", "item_ids": ["',
    '"], "payment_method_id": "',
    "respond",
    *(f"{schema['function']['name']}[" for schema in RETAIL_SCHEMAS),
    *(schema["function"]["name"] for schema in RETAIL_SCHEMAS),
    "My name is ",
    " and my zip code is zip1. ",
    " and my email is mail@1. ",
    "Return #1",
    "Cancel order #1 because ",
    " via original: ",
    " via gift_card: ",
    "orders #1",
    *(f" #{i}" for i in range(1, 6)),
    *(f"#{i}" for i in range(1, 6)),
    "; payments ",
    "; paid ",
    "; ",
    "credit_card",
    "gift_card",
    "paypal",
    "mail@1",
    "zip1",
    "user1",
    " | ",
    "]",
    "? (yes/no)",
    "Anything else?",
    "###STOP###",
    "Yes.",
    "Transfer successful",
    "ok: return requested",
    "ok: cancelled",
    "no longer needed",
    "ordered by mistake",
    "not allowed",
    "Error: ",
    "return ",
    "cancel ",
    "cancel, ",
    " to ",
    *(f"{fault}: " for fault in ("right", "wrong item", "wrong payment", "wrong reason", "wrong step", "wrong order")),
    *(f"{fault}: " for fault in ("not confirmed", "order not read", "user not read", "user not found", "error")),
    *("find user", "read order", "read user", "other tool", "unreadable"),
    "review: reward ",
    " turns",
    "note:",
    " then ",
    " reward ",
    " do ",
    "0.00",
    "1.00",
    " ",
    *(f"{sentence.strip()}" for sentence in re.split(r"(?<=\.) ", LOOKUP_POLICY)),
    "system\n",
    "user\n",
    "tool\n",
    "assistant\n",
    *"0123456789",
)
"""Strings of the environment and of the review format that become one piece each."""


def main(folder: Path) -> None:
    """Train the tokenizer and save it."""
    collector = Collector(ENV, ENV_ARGS, split="warmup")
    tokenizer = learn(RetailDemonstrations(), collector, RetailCommands(), GLUE, 700)
    tokenizer.save_pretrained(folder)
    print(f"{len(tokenizer)} ids saved to {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
