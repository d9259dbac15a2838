"""``hero_pl estimate``: what a configuration needs of memory and arithmetic, before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hero_pl.cli.lightning import instantiate
from hero_pl.errors import ConfigError
from hero_pl.module import TOKENS_PER_MICRO_BATCH
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.memory import FLOAT_BYTES, LOGIT_TENSORS, Sizes, logits_at_once, measure
from hero_pl.policy.sampler import CachedSampler

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Row:
    """One part of the memory."""

    when: str
    """``always``, ``learning`` or ``rollout``; the two do not coincide."""
    name: str
    bytes: int
    detail: str


def run(
    words: Sequence[str], memory_gb: float | None = None, tflops: float | None = None, as_json: bool = False
) -> bool:
    """Print the estimate; returns whether it fits.

    Args:
        words: Arguments of ``fit``.
        memory_gb: Memory of one device, in GiB.
        tflops: Arithmetic of one device that is reached, in 10^12 operations per second.
        as_json: One JSON object instead of a table.

    Raises:
        ConfigError: The policy has no model.
    """
    here = [
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.strategy=auto",
    ]  # it may be for another machine
    cli = instantiate([*words, *here], "estimate")
    rows, sizes, operations = estimate(cli.model, cli.datamodule, str(cli.config.trainer.precision or "32-true"))
    peak = peak_bytes(rows)
    fits = memory_gb is None or peak <= memory_gb * GIB
    if as_json:
        parts = [{"when": row.when, "name": row.name, "bytes": row.bytes, "detail": row.detail} for row in rows]
        print(json.dumps({"peak_bytes": peak, "operations": operations, "fits": fits, "parts": parts}, indent=2))
        return fits
    print(f"{sizes.parameters / 1e9:.3f} billion parameters, of which {sizes.trained / 1e9:.4f} are trained\n")
    for row in rows:
        print(f"  {row.when:9} {row.name:22} {row.bytes / GIB:9.3f} GiB   {row.detail}")
    print(f"\n  largest sum of one device      {peak / GIB:6.3f} GiB, without what the allocator needs")
    print(f"  a step of full conversations   {operations:.2e} operations, without attention")
    if tflops:
        print(f"                                 {operations / tflops / 1e12:.1f} s at {tflops:g} TFLOP/s")
    if memory_gb is not None:
        print(f"  {'fits' if fits else 'DOES NOT FIT'} into {memory_gb:g} GiB" + ("" if fits else f". {_cure(rows)}"))
    return fits


def estimate(module: Any, data: Any, precision: str) -> tuple[list[Row], Sizes, float]:
    """The parts of the memory of one device, the sizes of the model, and the operations of a step.

    Args:
        module: The ``HeroModule`` of a configuration.
        data: Its ``RolloutDataModule``.
        precision: ``trainer.precision``.

    Raises:
        ConfigError: The policy has no model.
    """
    policy = module.policy
    if not isinstance(policy, HuggingFacePolicy):
        raise ConfigError(f"{type(policy).__name__} has no model to estimate. Take a HuggingFacePolicy.")
    mixed = "bf16" in precision and policy.dtype == "float32"
    dtype = torch.bfloat16 if mixed else getattr(torch, policy.dtype)
    given = module.tokens_per_micro_batch
    tokens = TOKENS_PER_MICRO_BATCH[False] if given == "auto" else int(given)  # on an accelerator
    sizes, context = measure(policy, tokens, dtype), policy.context_length()
    parts = logits_at_once(policy, sizes.vocabulary, tokens)
    kept, how = sizes.activations, f"{tokens} tokens (tokens_per_micro_batch)"
    if policy.gradient_checkpointing:  # the inputs of the layers, and one layer that is computed again
        kept = sizes.layers * tokens * sizes.width * dtype.itemsize + sizes.activations // sizes.layers
        how += ", gradient_checkpointing"
    rows = [
        Row("always", "weights", sizes.weights, policy.dtype),
        Row("always", "gradients", sizes.trained_weights, "of trained weights"),
        Row("always", "optimizer", 2 * sizes.trained_weights, "two averages of AdamW"),
        *_copies(module.objective, sizes, policy.lora is not None),
        Row("learning", "activations", kept, how),
        Row("learning", "logits", LOGIT_TENSORS * parts * sizes.vocabulary * FLOAT_BYTES, f"of {parts} tokens at once"),
    ]
    if mixed:
        rows.append(Row("always", "weights in bfloat16", sizes.trained * dtype.itemsize, "cast once per pass"))
    episodes = data.tasks_per_step * data.group_size
    if isinstance(policy.sampler, CachedSampler):
        envs = min(data.limits.num_envs, episodes)
        cache = envs * context * sizes.cache_per_token
        if policy.lora is not None:
            rows.append(Row("rollout", "merged weights", sizes.weights, "an adapter is merged while it samples"))
        rows.append(Row("rollout", "keys and values", cache, f"{envs} conversations of {context} tokens, all full"))
    # per parameter and token: 2 to sample, 2 for the teacher, 2 for the student, 4 backward (2 if weights are frozen)
    backward = (2 if policy.lora is not None else 4) + 2 * policy.gradient_checkpointing
    return rows, sizes, (6 + backward) * sizes.active * episodes * context


def peak_bytes(rows: Sequence[Row]) -> int:
    """The largest sum: learning or rollout."""
    sums = {when: sum(row.bytes for row in rows if row.when == when) for when in ("always", "learning", "rollout")}
    return sums["always"] + max(sums["learning"], sums["rollout"])


def _copies(objective: Any, sizes: Sizes, adapter: bool) -> list[Row]:
    """Frozen weights of teacher and reflector; those of the start are free with an adapter."""
    teacher = type(getattr(objective, "weights", None)).__name__
    names = {teacher} - {"NoneType", "LiveWeights"}
    if getattr(getattr(objective, "reflector", None), "weights", "") == "initial":
        names.add("InitialWeights")
    rows = []
    for name in sorted(names):
        each = sizes.trained_weights if adapter else sizes.weights
        if not (adapter and name == "InitialWeights"):
            rows.append(Row("always", "frozen copy", each, name))
    return rows


def _cure(rows: Sequence[Row]) -> str:
    largest = max(rows, key=lambda row: row.bytes)
    return {
        "activations": "Lower model.tokens_per_micro_batch, or set gradient_checkpointing: true.",
        "logits": "Lower model.policy.init_args.logits_at_once.",
        "keys and values": "Lower data.limits.num_envs or max_length.",
    }.get(largest.name, "Train an adapter (lora), or load the weights with dtype: bfloat16.")
