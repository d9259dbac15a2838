"""``hero_pl estimate``: what a configuration needs of memory and arithmetic, before anything is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from hero_pl.cli.lightning import instantiate
from hero_pl.cli.machine import Machine
from hero_pl.errors import ConfigError
from hero_pl.module import TOKENS_PER_MICRO_BATCH
from hero_pl.objectives.self_distillation import LENT_BYTES
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.memory import FLOAT_BYTES, LOGIT_TENSORS, Sizes, logits_at_once, measure
from hero_pl.policy.network import TOKENS_PER_PASS
from hero_pl.policy.sampler import CachedSampler
from hero_pl.reflection.policy_reflector import PolicyReflector
from hero_pl.reflection.self_reflector import SelfReflector

GIB = 2**30
PHASES = ("rollout", "review", "learning", "evaluation")
"""They follow each other; what is ``always`` there is there in each of them."""
ROOM = 1.25
"""Slots of a cache of keys and values per token: it grows by a quarter, so that not every token copies it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One part of the memory."""

    when: str
    """``always``, a phase, or ``server`` for what is not in the memory of the device."""
    name: str
    bytes: int
    detail: str


@dataclass(frozen=True, slots=True)
class Work:
    """Arithmetic of one optimizer step on one device."""

    operations: float
    """With conversations that fill the context."""
    weights_read: int
    """Bytes of weights that are read to sample token by token: a lower bound of the time to sample."""


def run(
    words: Sequence[str],
    memory_gb: float | None = None,
    tflops: float | None = None,
    bandwidth: float | None = None,
    as_json: bool = False,
) -> bool:
    """Print the estimate; returns whether it fits.

    Args:
        words: Arguments of ``fit``.
        memory_gb: Memory of one device, in GiB.
        tflops: Arithmetic of one device that is reached, in 10^12 operations per second.
        bandwidth: Bytes that one device reads of its memory, in 10^9 per second.
        as_json: One JSON object instead of a table.

    Raises:
        ConfigError: The policy has no model.
    """
    cli = instantiate(list(words), "estimate", elsewhere=True)
    machine = cli.machine
    precision, evaluated = str(cli.config.trainer.precision or "32-true"), int(cli.config.held_out.episodes)
    rows, sizes, work = estimate(cli.model, cli.datamodule, precision, machine, evaluated)
    peak, largest = peak_bytes(rows)
    fits = memory_gb is None or peak <= memory_gb * GIB
    if as_json:
        parts = [{"when": row.when, "name": row.name, "bytes": row.bytes, "detail": row.detail} for row in rows]
        facts = {"peak_bytes": peak, "phase": largest, "operations": work.operations, "fits": fits}
        print(json.dumps({**facts, "processes": machine.processes, "parts": parts}, indent=2))
        return fits
    share = "adapter" if cli.model.policy.lora is not None else "all weights"
    print(
        f"{sizes.parameters / 1e9:.3f} billion parameters, {sizes.trained / 1e9:.4f} trained ({share}), context ",
        end="",
    )
    print(f"{cli.model.policy.context_length()} tokens\n{machine.describe(cli.datamodule)}\n")
    for row in sorted(rows, key=lambda row: ("always", *PHASES, "server").index(row.when)):
        print(f"  {row.when:10} {row.name:22} {row.bytes / GIB:9.3f} GiB   {row.detail}")
    print(f"\n  largest sum of one device      {peak / GIB:6.3f} GiB ({largest}), without what the allocator needs")
    print(f"  a step of full conversations   {work.operations:.2e} operations")
    if tflops:
        print(f"                                 {work.operations / tflops / 1e12:.1f} s at {tflops:g} TFLOP/s")
    if bandwidth and work.weights_read:
        seconds = work.weights_read / bandwidth / 1e9
        print(f"  sampling one token at a time   {seconds:.1f} s at {bandwidth:g} GB/s, to read the weights")
    if memory_gb is not None:
        cure = "" if fits else f". {_cure(rows, largest)}"
        print(f"  {'fits' if fits else 'DOES NOT FIT'} into {memory_gb:g} GiB{cure}")
    return fits


def estimate(
    module: Any, data: Any, precision: str, machine: Machine, evaluated: int = 0
) -> tuple[list[Row], Sizes, Work]:
    """The parts of the memory of one device, the sizes of the model, and the arithmetic of a step.

    Args:
        module: The ``HeroModule`` of a configuration.
        data: Its ``RolloutDataModule``.
        precision: ``trainer.precision``.
        machine: Where it is to run.
        evaluated: Held-out episodes of an evaluation, which plays more of them at the same time than a step.

    Raises:
        ConfigError: The policy has no model.
    """
    policy = module.policy
    if not isinstance(policy, HuggingFacePolicy):
        raise ConfigError(f"{type(policy).__name__} has no model to estimate. Take a HuggingFacePolicy.")
    mixed = "bf16" in precision and policy.dtype == "float32"
    dtype = torch.bfloat16 if mixed else getattr(torch, policy.dtype)
    given, context = module.tokens_per_micro_batch, policy.context_length()
    tokens = max(TOKENS_PER_MICRO_BATCH[machine.on_cpu] if given == "auto" else int(given), context)
    sizes = measure(policy, tokens, dtype)
    parts = logits_at_once(policy, sizes.vocabulary, tokens, machine.on_cpu)
    layer = sizes.activations // sizes.layers
    kept, how = sizes.activations, f"{tokens} tokens (tokens_per_micro_batch, or one whole conversation)"
    if policy.gradient_checkpointing:  # the inputs of the layers, and one layer that is computed again
        kept = sizes.layers * tokens * sizes.width * dtype.itemsize + layer
        how += ", gradient_checkpointing"
    sharded = f", sharded over {machine.shards}" if machine.shards > 1 else ""
    rows = [
        Row("always", "weights", sizes.weights // machine.shards, policy.dtype + sharded),
        Row("always", "gradients", sizes.trained_weights // machine.shards, "of trained weights" + sharded),
        Row("always", "optimizer", 2 * sizes.trained_weights // machine.shards, "two averages of AdamW" + sharded),
        *_copies(module.objective, sizes, policy.lora is not None, machine),
        Row("learning", "activations", kept, how),
        Row("learning", "one layer more", layer, "gradients of its activations, or the teacher's pass"),
        Row("learning", "logits", LOGIT_TENSORS * parts * sizes.vocabulary * FLOAT_BYTES, f"of {parts} tokens at once"),
    ]
    if mixed:
        rows.append(Row("always", "weights in bfloat16", sizes.trained * dtype.itemsize, "cast once per pass"))
    if machine.processes > 1 and machine.shards == 1:
        rows.append(Row("always", "buckets", sizes.trained_weights, "gradients that DDP exchanges"))
    if machine.shards > 1:
        copies = machine.shards * sum(row.bytes for row in rows if row.name == "frozen copy")
        rows.append(Row("always", "gathered weights", sizes.weights + copies, "all, with frozen copies"))
    episodes = data.tasks_per_step * data.group_size
    reviewer, reviews = _reviewer(module.objective, episodes)
    per_token = layer // tokens
    if isinstance(policy.sampler, CachedSampler):
        envs = min(data.limits.num_envs, episodes)
        waiting = min(getattr(module.objective, "continues", 0), episodes)
        rows += _sampling("rollout", policy, sizes, envs, envs + waiting, context, per_token, machine)
        if evaluated:
            played = min(data.limits.num_envs, -(-evaluated // machine.processes))
            rows += _sampling("evaluation", policy, sizes, played, played, context, per_token, machine)
        if reviews and not isinstance(reviewer, PolicyReflector):
            held = 2 * reviews if waiting else reviews
            rows += _sampling("review", policy, sizes, reviews, held, context, per_token, machine)
            if module.objective.weights.scorer is not None and reviewer.lends == module.objective.weights.copy:
                lent = min(episodes * context * sizes.cache_per_token, LENT_BYTES)
                rows.append(Row("learning", "keys and values", lent, "of the reviews, on which the teacher runs"))
    else:
        cache = min(data.limits.num_envs, episodes) * context * sizes.cache_per_token
        rows += [
            Row("server", "weights", sizes.weights, policy.dtype),
            Row("server", "keys and values", cache, "of all conversations, full; with less room some wait"),
        ]
    if isinstance(reviewer, PolicyReflector) and isinstance(reviewer.policy, HuggingFacePolicy):
        other, room = measure(reviewer.policy, 16, dtype), reviewer.policy.context_length()
        rows.append(Row("always", "weights of the reviewer", other.weights, reviewer.policy.dtype))
        if isinstance(reviewer.policy.sampler, CachedSampler):
            each = other.activations // other.layers // 16
            rows += _sampling("review", reviewer.policy, other, reviews, reviews, room, each, machine)
    rows += _user(data, episodes, -(-evaluated // machine.processes), machine)
    return rows, sizes, _work(policy, data, sizes, context, bool(reviews))


def peak_bytes(rows: Sequence[Row]) -> tuple[int, str]:
    """The largest sum of one phase with what is always there, and that phase."""
    sums = {phase: sum(row.bytes for row in rows if row.when in ("always", phase)) for phase in PHASES}
    largest = max(sums, key=lambda phase: sums[phase])
    return sums[largest], largest


def _sampling(
    phase: str,
    policy: HuggingFacePolicy,
    sizes: Sizes,
    rows: int,
    held: int,
    context: int,
    per_token: int,
    machine: Machine,
) -> list[Row]:
    """What drawing tokens in this process needs.

    Args:
        phase: ``rollout``, ``review`` or ``evaluation``.
        policy: Policy that draws.
        sizes: Sizes of its model.
        rows: Conversations that grow at the same time.
        held: Conversations whose keys and values are there.
        context: Tokens of each.
        per_token: Bytes of one layer's activations per token.
        machine: Where it is to run.
    """
    assert isinstance(policy.sampler, CachedSampler)
    cache = int(ROOM * held * context * sizes.cache_per_token)
    prompts = min(rows * context, max(TOKENS_PER_PASS, context))
    found = [
        Row(phase, "keys and values", cache, f"{held} conversations of {context} tokens, all full, and a quarter free"),
        Row(phase, "one layer", prompts * per_token, f"a pass over prompts of {prompts} tokens"),
        Row(phase, "logits", 3 * rows * sizes.vocabulary * FLOAT_BYTES, f"of {rows} conversations"),
    ]
    merged = sizes.adapted if policy.sampler.merge else 0
    packed = sizes.packed if policy.sampler.pack and machine.on_cpu else 0
    if packed:  # each sum is freed when its copy is made
        found.append(Row(phase, "packed weights", max(packed, merged), "in the layout of the kernels of a CPU"))
    elif merged:
        found.append(Row(phase, "merged weights", merged, "the adapter added to the weights"))
    return found


def _user(data: Any, episodes: int, evaluated: int, machine: Machine) -> list[Row]:
    """A user simulator whose model runs in this process; its replies are drawn while episodes are played."""
    from hero_pl.rollout.local_user import LocalChat, read_user

    local = read_user(data.env_args.get("user"))
    if local is None:
        return []
    settings, policy = local[0], LocalChat(local[0]).policy
    sizes = measure(policy, 16, getattr(torch, settings.dtype))
    if settings.device == "cpu" and not machine.on_cpu:
        return [Row("server", "weights of the user", sizes.weights, f"{settings.dtype}, in the memory of the CPU")]
    rows = [Row("always", "weights of the user", sizes.weights, settings.dtype)]
    each, context = sizes.activations // sizes.layers // 16, policy.context_length()
    for phase, played in (("rollout", episodes), ("evaluation", evaluated)):
        together = min(settings.batch_size if data.limits.threads else 1, data.limits.num_envs, played)
        if together:
            found = _sampling(phase, policy, sizes, together, together, context, each, machine)
            rows += [replace(row, detail=f"user: {row.detail}") for row in found]
    return rows


def _reviewer(objective: Any, episodes: int) -> tuple[Any, int]:
    """The reflector that draws reviews from a model, inside of others, and its largest batch; or ``None`` and 0."""
    reflector: Any = getattr(objective, "reflector", None)
    while hasattr(reflector, "inner"):
        reflector = reflector.inner
    if not isinstance(reflector, SelfReflector):
        return None, 0
    return reflector, min(reflector.batch_size, episodes)


def _work(policy: HuggingFacePolicy, data: Any, sizes: Sizes, context: int, reviewed: bool) -> Work:
    episodes = data.tasks_per_step * data.group_size
    # per parameter and token: 2 to sample, 2 for the teacher, 2 for the student, 4 backward (2 if weights are frozen)
    backward = (2 if policy.lora is not None else 4) + 2 * policy.gradient_checkpointing
    here = isinstance(policy.sampler, CachedSampler)
    passes = 4 + backward + 2 * here * (1 + reviewed)
    each = sizes.active + sizes.attention * context  # of 2 * attention * context / 2 tokens before it
    waves = math.ceil(episodes / data.limits.num_envs)
    tokens = data.limits.max_turns * data.sampling.max_action_tokens * waves
    return Work(passes * each * episodes * context, tokens * sizes.weights if here else 0)


def _copies(objective: Any, sizes: Sizes, adapter: bool, machine: Machine) -> list[Row]:
    """Frozen weights that the parts of the objective use; of an adapter alone, those of the start are free."""
    rows = []
    for name, dtype in sorted(objective.copies.items()):
        each = sizes.trained_weights if adapter else sizes.weights
        if dtype is not None:  # weights that are not trained are not copied
            each = sizes.trained * dtype.itemsize
        if not (adapter and name == "initial"):
            rows.append(Row("always", "frozen copy", each // machine.shards, name))
    return rows


def _cure(rows: Sequence[Row], phase: str) -> str:
    largest = max((row for row in rows if row.when in ("always", phase)), key=lambda row: row.bytes)
    return {
        "activations": "Lower model.tokens_per_micro_batch, or set gradient_checkpointing: true.",
        "logits": "Lower model.policy.init_args.logits_at_once.",
        "keys and values": "Lower batch_size of the reflector or max_length."
        if phase == "review"
        else "Lower data.limits.num_envs or max_length, or sample on a server (configs/hardware/server.yaml).",
        "merged weights": "Set merge: false of CachedSampler.",
        "weights of the user": "Load the user's model with dtype: bfloat16, or set device: cpu for it.",
    }.get(largest.name, "Train an adapter (lora), or load the weights with dtype: bfloat16.")
