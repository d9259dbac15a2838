"""Time and accuracy of bfloat16 compared with float32: sampling, scoring, and the gap between the two.

    python benchmarks/precision.py --pretrained FOLDER --csv precision.csv

A policy plays conversations of random ids and then scores what it has drawn, on one thread, in CPU time. The gap is the
mean absolute difference of the log-probabilities that were recorded while sampling from those of scoring, in nats (the
metric ``mismatch/abs_mean`` of a run).

float32      weights and passes in float32
mixed        float32 weights under autocast to bfloat16 (``trainer.precision: bf16-mixed``)
per token    the same, with every weight cast again for every token
apart        sampled in float32, scored as in ``mixed``
bfloat16     weights in bfloat16 (``policy.dtype``)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path

import torch
from tables import write_rows

from hero_pl.chat.actions import PlainText
from hero_pl.policy import base
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.sampling import Sampling
from hero_pl.types import ScoreRow

VARIANTS = ("float32", "mixed", "per token", "apart", "bfloat16")


@contextmanager
def per_token() -> Iterator[None]:
    """Without the cache of casts that ``Policy.sampling`` keeps."""
    kept, base._weights_cast_once = base._weights_cast_once, lambda device: nullcontext()
    try:
        yield
    finally:
        base._weights_cast_once = kept


def autocast(wanted: bool) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=wanted, cache_enabled=False)  # as Lightning has it


def measure(policy: HuggingFacePolicy, variant: str, rows: int, prompt: int, action: int) -> dict[str, float | str]:
    draw = torch.Generator().manual_seed(0)
    vocabulary = int(policy.need_network("precision").model.config.get_text_config().vocab_size)
    prompts = [tuple(ids) for ids in torch.randint(vocabulary, (rows, prompt), generator=draw).tolist()]
    mixed = variant in ("mixed", "per token", "apart")
    with per_token() if variant == "per token" else nullcontext():
        with autocast(mixed and variant != "apart"), policy.sampling():
            clock = [time.process_time()]
            session = policy.sampler.open(policy, Sampling(1.0, 1), range(rows))
            session.act(range(rows), prompts)
            clock.append(time.process_time())
            session = policy.sampler.open(policy, Sampling(1.0, action), range(rows))
            drawn = session.act(range(rows), prompts)
            clock.append(time.process_time())
        scored = [ScoreRow(p + a.ids, ((prompt, prompt + action),)) for p, a in zip(prompts, drawn, strict=True)]
        ids = torch.tensor([i for a in drawn for i in a.ids])
        with autocast(mixed), policy.sampling():
            log_probs = policy.scores(scored).of_actions(ids)
            clock.append(time.process_time())
    prefill, both, scoring = (after - before for before, after in pairwise(clock))
    recorded = torch.tensor([x for a in drawn for x in a.logprobs])
    return {
        "variant": variant,
        "prefill s": round(prefill, 2),
        "decode ms per token": round(1000 * (both - prefill) / (action - 1), 1),
        "scoring s": round(scoring, 2),
        "gap": float(f"{(log_probs - recorded).abs().mean():.1e}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pretrained", default="hero_pl:pocket-shop")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--action", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    policies = {
        dtype: HuggingFacePolicy(options.pretrained, parser=PlainText(), dtype=dtype)
        for dtype in ("float32", "bfloat16")
    }
    for policy in policies.values():
        policy.load()
        policy.template.end_ids = frozenset()  # no reply ends early
    best: dict[str, dict[str, float | str]] = {}
    for _ in range(options.repeats):
        for variant in VARIANTS:
            policy = policies["bfloat16" if variant == "bfloat16" else "float32"]
            found = measure(policy, variant, options.rows, options.prompt, options.action)
            known = best.get(variant, found)
            best[variant] = {k: min(v, known[k]) if isinstance(v, float) else v for k, v in found.items()}  # type: ignore[type-var]
    rows = list(best.values())
    print("".join(f"{name:>22}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:>22}" for value in row.values()))
    if options.csv:
        write_rows(options.csv, rows)


if __name__ == "__main__":
    main()
