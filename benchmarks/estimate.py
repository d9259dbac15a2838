"""Holds the estimate of memory (``hero_pl estimate``) against what a process that trains two steps has, phase by phase.

    python benchmarks/estimate.py --csv estimate.csv

Policies of random weights on the CPU, each in its own process. Measured is the largest resident memory of a phase
(rollout; review; learning) above that of the process after it has trained a model of almost no size, so that the
libraries do not count. The estimate is made for the longest conversation and the most tokens of a pass that occurred.

glibc keeps freed memory for later, in pieces that often do not fit. Every policy is therefore measured twice: with
``MALLOC_MMAP_THRESHOLD_=131072``, which returns freed tensors at once, and as it comes (``kept``). The estimate counts
full conversations and reserves, so it may be above what is measured by more than below. Exits with status 1 if the
estimate of a phase is below the first by more than ``--bar``, or that of a whole run above it by more than that.
Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
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
ADAPTER = {"lora": {"rank": 8, "alpha": 16}}
SELF = {"class_path": "SelfReflector", "init_args": {"weights": "initial", "mode": "continue", "tokens_per_turn": 16}}
REVIEW = {"class_path": "hero_pl.cli.smoke.FixedDiagnoses", "init_args": {"inner": SELF}}
"""Random weights write no review, so that every turn gets a fixed diagnosis after it was asked for."""
VARIANTS: dict[str, dict[str, Any]] = {
    "all weights": {},
    "all weights, gradient_checkpointing": {"gradient_checkpointing": True},
    "all weights, small micro-batches": {"tokens": 1000},
    "all weights, self-review, EMA teacher": {"reflector": REVIEW, "weights": "EMAWeights"},
    "adapter of rank 8": ADAPTER,
    "adapter, not merged": {**ADAPTER, "sampler": {"class_path": "CachedSampler", "init_args": {"merge": False}}},
    "adapter, gradient_checkpointing": {**ADAPTER, "gradient_checkpointing": True},
    "adapter, self-review, gated teacher": {**ADAPTER, "reflector": REVIEW, "weights": "GatedWeights"},
}
USUAL = {"reflector": "ShopRules", "weights": "InitialWeights"}
OF_THE_REST = ("tokens", *USUAL)
"""Settings that do not belong to the policy."""
PHASES = ("rollout", "review", "learning")
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "131072"}
LONGEST_S = 1800
"""Of one variant; a process that fails gives no answer."""


def status(name: str) -> int:
    """For example ``VmHWM``, the largest resident memory of this process since :func:`again`, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def again() -> None:
    """Forget the largest resident memory so far."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def words(settings: dict[str, Any], shape: dict[str, Any], folder: str) -> list[str]:
    """Options of ``fit``."""
    values = {
        "pretrained": None,
        "config": shape,
        "tokenizer": "hero_pl:pocket-shop",
        "logits_at_once": 64,
        **{key: value for key, value in settings.items() if key not in OF_THE_REST},
    }
    of_objective = {key: settings.get(key, usual) for key, usual in USUAL.items()}
    return [
        "--config=hero_pl:quickstart",
        *(f"--model.policy.init_args.{key}={_text(value)}" for key, value in values.items()),
        *(f"--model.objective.init_args.{key}={_text(value)}" for key, value in of_objective.items()),
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


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class Watch:
    """Notes the largest memory of each phase, the tokens of the largest pass, and the longest conversation."""

    def __init__(self) -> None:
        from hero_pl.module import HeroModule
        from hero_pl.objectives.self_distillation import SelfDistillation
        from hero_pl.policy.network import Network

        self.peaks: dict[str, int] = defaultdict(int)
        self.tokens = self.longest = 0
        step, prepare, read_rows = HeroModule.training_step, SelfDistillation.prepare, Network.read_rows

        def stepped(module: Any, batch: Any, number: int) -> None:
            self.ends("rollout")
            turns = [turn for episode in batch for turn in episode.turns]
            self.longest = max(self.longest, *(len(turn.prompt_ids) + len(turn.action_ids) for turn in turns))
            step(module, batch, number)
            self.ends("learning")

        def prepared(*args: Any) -> Any:
            again()
            made = prepare(*args)
            self.ends("review")
            return made

        def counted(network: Network, read: Any, rows: Any, weights: str = "live") -> Any:
            import torch

            self.tokens = max(self.tokens, torch.is_grad_enabled() * sum(len(row.ids) for row in rows))
            return read_rows(network, read, rows, weights)

        HeroModule.training_step = stepped  # type: ignore[method-assign]
        SelfDistillation.prepare = prepared  # type: ignore[method-assign]
        Network.read_rows = counted  # type: ignore[method-assign]

    def ends(self, phase: str) -> None:
        """The phase has ended; the next one begins."""
        self.peaks[phase] = max(self.peaks[phase], status("VmHWM"))
        again()


def trained(settings: dict[str, Any]) -> tuple[int, int, int, dict[str, int], dict[str, int]]:
    """Train in a process of its own, then estimate for the tokens that occurred."""
    from hero_pl.cli.estimate import estimate, peak_bytes
    from hero_pl.cli.lightning import instantiate
    from hero_pl.cli.machine import Machine

    with tempfile.TemporaryDirectory() as folder:
        first = instantiate(words(settings, NONE, folder))
        first.trainer.fit(first.model, first.datamodule)
        del first
        cli, watch = instantiate(words(settings, SHAPE, folder)), Watch()
        again()
        libraries = status("VmRSS")
        cli.trainer.fit(cli.model, cli.datamodule)
        fresh = instantiate(words(settings, SHAPE, folder))
        fresh.model.tokens_per_micro_batch = watch.tokens
        fresh.model.policy.configured_length = watch.longest
        rows, _, _ = estimate(fresh.model, fresh.datamodule, "32-true", Machine(on_cpu=True))
        estimated = {p: sum(row.bytes for row in rows if row.when in ("always", p)) for p in PHASES}
        measured = {phase: peak - libraries for phase, peak in watch.peaks.items()}
        return watch.tokens, watch.longest, peak_bytes(rows)[0], estimated, measured


def in_process(settings: dict[str, Any], environment: dict[str, str]) -> Any:
    """What :func:`trained` returns, in a new process with the given environment."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(trained, settings).result(LONGEST_S)
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--bar", type=float, default=0.25)
    parser.add_argument("--only", help="One variant.")
    args = parser.parse_args()
    rows, bad = [], []
    for name, settings in VARIANTS.items():
        if args.only not in (None, name):
            continue
        tokens, longest, peak, estimated, measured = in_process(settings, RETURNED)
        kept = max(in_process(settings, {})[4].values())
        both = {phase: f"{estimated[phase] >> 20}/{measured[phase] >> 20}" for phase in PHASES}
        whole = max(measured.values())
        rows.append(
            {"variant": name, "tokens": tokens, "longest": longest, "estimated_mib": peak >> 20}
            | {"measured_mib": whole >> 20, "kept_mib": kept >> 20, **both}
        )
        print(*(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
        low = [phase for phase in PHASES if estimated[phase] < (1 - args.bar) * measured[phase]]
        if low or peak > (1 + args.bar) * whole:
            bad.append(name)
            print(f"  off: {', '.join(low) or 'the whole run, above'}", flush=True)
    if args.csv:
        write_rows(args.csv, rows)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
