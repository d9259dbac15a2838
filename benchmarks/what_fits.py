"""What fits where: the memory of one device for some models, adapter or all weights, and context lengths.

    python benchmarks/what_fits.py --csv what_fits.csv

The figures are those of ``hero_pl estimate`` for ``configs/webshop_qwen3_4b.yaml`` with another model, in GiB; nothing
is loaded or downloaded. Samples are drawn on a server beside the trainer, so ``conversation`` (keys and values of one
full conversation) is needed there, with a second copy of the weights in bfloat16. All weights are trained in float32
with ``bf16-mixed``. The output is a table for ``docs/scaling.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from tables import write_rows

QWEN3 = {
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}
MODELS: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": {**QWEN3, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
    | {"num_attention_heads": 16},
    "Qwen3-4B": {**QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36},
    "Qwen3-8B": {**QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36}
    | {"tie_word_embeddings": False},
    "Qwen3-30B-A3B": {**QWEN3, "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144}
    | {"num_hidden_layers": 48, "num_key_value_heads": 4, "moe_intermediate_size": 768, "num_experts": 128}
    | {"num_experts_per_tok": 8, "norm_topk_prob": True, "tie_word_embeddings": False},
}
"""Shapes of public models."""
ADAPTER = {"rank": 32, "alpha": 64}
ATTENTION = {**ADAPTER, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
ROWS = [
    (model, trained, context)
    for model in MODELS
    for trained in (("adapter",) if "A3B" in model else ("adapter", "all"))
    for context in (4096, 16384)
]
GIB = 2**30


def memory(model: str, trained: str, context: int) -> dict[str, Any]:
    """One row of the table."""
    from hero_pl.cli.estimate import estimate, peak_bytes
    from hero_pl.cli.lightning import instantiate

    lora = None if trained == "all" else ATTENTION if "A3B" in model else ADAPTER
    server = {"url": "http://localhost:8000", "folder": "weights", "sync": "adapter" if lora else "folder"}
    policy: dict[str, Any] = {
        "pretrained": None,
        "config": MODELS[model],
        "tokenizer": "hero_pl:pocket-shop",
        "dtype": "bfloat16" if lora else "float32",
        "lora": lora,
        "max_length": context,
        "sampler": {"class_path": "ServerSampler", "init_args": server},
    }
    words = [
        "--config=hero_pl:webshop_qwen3_4b",
        *(f"--model.policy.init_args.{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in policy.items()),
        f"--model.tokens_per_micro_batch={context}",
        "--model.objective.init_args.reflector.init_args.weights=live",
        "--model.objective.init_args.weights=LiveWeights",
        f"--trainer.precision={'bf16-true' if lora else 'bf16-mixed'}",
    ]
    cli = instantiate(words, elsewhere=True)
    rows, sizes, _ = estimate(cli.model, cli.datamodule, str(cli.config.trainer.precision), cli.machine)
    parts: dict[str, float] = defaultdict(float)
    for row in rows:
        parts[{"gradients": "optimizer", "one layer more": "activations"}.get(row.name, row.name)] += row.bytes * (
            row.when != "server"
        )
    return {
        "model": model,
        "trained": f"{trained} ({sizes.trained / 1e6:.0f} M)",
        "context": context,
        "weights": parts["weights"] + parts["frozen copy"] + parts["weights in bfloat16"],
        "gradients, optimizer": parts["optimizer"],
        "activations": parts["activations"],
        "logits": parts["logits"],
        "trainer": peak_bytes(rows)[0],
        "conversation": context * sizes.cache_per_token,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--only", help="One model.")
    args = parser.parse_args()
    found = [memory(*row) for row in ROWS if args.only in (None, row[0])]
    texts = ("model", "trained", "context")
    shown = [{k: v if k in texts else f"{v / GIB:.2f}" for k, v in row.items()} for row in found]
    print("| " + " | ".join(shown[0]) + " |")
    print("|" + "---|" * len(shown[0]))
    for row in shown:
        print("| " + " | ".join(map(str, row.values())) + " |", flush=True)
    if args.csv:
        write_rows(args.csv, shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
