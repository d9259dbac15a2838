"""Holds the estimate of memory (``hero_pl estimate``) against the largest memory of a process that trains two steps.

    python benchmarks/estimate.py --csv estimate.csv

Policies of random weights on the CPU, each in its own process. Measured is the largest resident memory of the process
minus that of one with the same settings and a model of almost no size, which imports the same libraries. Exits with
status 1 if an estimate is off by more than ``--bar``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from pathlib import Path
from typing import Any

from tables import write_rows

SHAPE = {
    "model_type": "qwen3",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
NONE = {**SHAPE, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8}
VARIANTS: dict[str, dict[str, Any]] = {
    "all weights": {},
    "all weights, gradient_checkpointing": {"gradient_checkpointing": True},
    "adapter of rank 8": {"lora": {"rank": 8, "alpha": 16}},
    "all weights, small micro-batches": {"tokens": 1000},
}


LONGEST_S = 600
"""Of one variant; a process that fails gives no answer."""


def status(name: str) -> int:
    """For example ``VmHWM``, the largest resident memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def words(settings: dict[str, Any], shape: dict[str, Any], folder: str) -> list[str]:
    """Options of ``fit``."""
    settings = dict(settings)
    values = {
        "pretrained": None,
        "config": shape,
        "tokenizer": "hero_pl:pocket-shop",
        "logits_at_once": 64,
        **{key: value for key, value in settings.items() if key != "tokens"},
    }
    return [
        "--config=hero_pl:quickstart",
        *(
            f"--model.policy.init_args.{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in values.items()
        ),
        "--model.objective.init_args.reflector=ShopRules",
        f"--model.tokens_per_micro_batch={settings.get('tokens', 3000)}",
        "--data.limits={max_turns: 8, num_envs: 64}",
        "--data.tasks_per_step=24",
        "--trainer.max_steps=2",
        "--held_out.episodes=0",
        "--trainer.logger=false",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_checkpointing=false",
        f"--trainer.default_root_dir={folder}",
    ]


def trained(settings: dict[str, Any], shape: dict[str, Any], answer: Any) -> None:
    """Train in a process of its own, then estimate for the tokens that the student really had in one pass."""
    import torch

    from hero_pl.cli.estimate import estimate, peak_bytes
    from hero_pl.cli.lightning import instantiate
    from hero_pl.policy.network import Network

    with tempfile.TemporaryDirectory() as folder:
        cli, tokens = instantiate(words(settings, shape, folder)), [0]
        read_rows = Network.read_rows

        def counted(network: Network, read: Any, rows: Any, weights: str = "live") -> Any:
            tokens[0] = max(tokens[0], torch.is_grad_enabled() * sum(len(row.ids) for row in rows))
            return read_rows(network, read, rows, weights)

        Network.read_rows = counted  # type: ignore[method-assign]
        cli.trainer.fit(cli.model, cli.datamodule)
        measured = status("VmHWM")
        fresh = instantiate(words(settings, shape, folder))
        fresh.model.tokens_per_micro_batch = tokens[0]
        rows, _, _ = estimate(fresh.model, fresh.datamodule, "32-true")
        answer.put((tokens[0], peak_bytes(rows), measured))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--bar", type=float, default=0.25)
    args = parser.parse_args()
    spawn, rows = multiprocessing.get_context("spawn"), []
    for name, settings in VARIANTS.items():
        found = []
        for shape in (NONE, SHAPE):
            answer: Any = spawn.Queue()
            process = spawn.Process(target=trained, args=(settings, shape, answer))
            process.start()
            found.append(answer.get(timeout=LONGEST_S))
            process.join()
        (_, least, libraries), (tokens, estimated, measured) = found
        estimated, measured = estimated - least, measured - libraries
        rows.append(
            {"variant": name, "tokens": tokens, "estimated_mib": estimated >> 20, "measured_mib": measured >> 20}
        )
        print(
            f"{name:40} {tokens:5} tokens {estimated / 2**20:7.0f} MiB estimated {measured / 2**20:7.0f} MiB measured",
            flush=True,
        )
    if args.csv:
        write_rows(args.csv, rows)
    return int(any(abs(row["estimated_mib"] / row["measured_mib"] - 1) > args.bar for row in rows))


if __name__ == "__main__":
    sys.exit(main())
