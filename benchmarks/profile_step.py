"""Where the time, the memory and the arithmetic of one training step go.

    python benchmarks/profile_step.py --csv profile_step.csv

The step is that of ``whole_step.py`` with the default settings, on one thread. Columns: CPU seconds; share of the step;
growth of the process's peak memory in MiB during the first step; GFLOP of the matrix products and of attention; and the
share of the peak, which is the speed of a product of two matrices of 1,024 by 1,024.
``bare`` is the model's own forward pass for the same number of decoding passes, with the same rows and a cache of half
the final length: what a rollout takes at least. Exits with status 1 if the student's share of the peak is below
``--peak-bar``, or if the rollout takes more than ``--bare-bar`` times ``bare``.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from memory import peak_mib
from tables import write_rows
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from whole_step import PARTS, Load, Ours


def attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def attention_backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def flop_counter(vocab: int) -> FlopCounterMode:
    """Counts the CPU's kernels too."""

    def packed(rows: Any, *args: Any, **kwargs: Any) -> int:  # the layout hides the shape of the weights
        return 2 * int(rows[0]) * int(rows[1]) * vocab

    aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
    counted: dict[Any, Any] = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
        mkldnn._linear_pointwise: packed,
    }
    return FlopCounterMode(display=False, custom_mapping=counted)


def best_cpu_s(work: Any, repeats: int) -> float:
    found = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def peak_flops() -> float:
    """FLOP per second of one thread."""
    one, other = torch.randn(2, 1024, 1024)
    return 2 * 1024**3 / best_cpu_s(lambda: one @ other, 20)


def bare_s(ours: Ours) -> float:
    """CPU seconds of the model's forward pass alone, for as many decoding passes as the rollout has."""
    from transformers import DynamicCache

    from hero_pl.policy.cache_input import cache_input

    load, model = ours.load, ours.policy.need_network("profile_step").model
    length = (load.prompt + load.turns * (load.action + load.observation)) // 2
    passes = load.turns * (load.action - 1)
    with ours.policy.sampling():
        cache = DynamicCache()
        given = cache_input(model, cache)
        model(input_ids=torch.ones(load.episodes, length, dtype=torch.long), use_cache=True, **given)
        ids = torch.ones(load.episodes, 1, dtype=torch.long)
        sample = 50
        spent = best_cpu_s(lambda: [model(input_ids=ids, use_cache=True, **given) for _ in range(sample)], 3)
    return spent / sample * passes


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--peak-bar", type=float, default=0.45)
    parser.add_argument("--bare-bar", type=float, default=2.0)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours = Ours(Load(), options.width, options.vocab, "auto")
    memory, _, _ = ours.step(0, peak_mib)
    with flop_counter(options.vocab) as counter:
        flop, _, _ = ours.step(0, counter.get_total_flops)
    clocks = [ours.step(100 * repeat)[0] for repeat in range(options.repeats)]
    clock = min(clocks, key=lambda one: one.total)
    peak, bare = peak_flops(), bare_s(ours)
    rows = [
        {
            "part": part,
            "cpu_s": round(clock.spent[part], 2),
            "share": round(clock.spent[part] / clock.total, 3),
            "peak_mib": round(memory.spent[part]),
            "gflop": round(flop.spent[part] / 1e9, 1),
            "of_peak": round(flop.spent[part] / clock.spent[part] / peak, 3),
        }
        for part in PARTS
    ]
    print("".join(f"{column:>12}" for column in rows[0]))
    for row in rows:
        print("".join(f"{value:>12}" for value in row.values()))
    of_bare = clock.spent["rollout"] / bare
    print(f"peak {peak / 1e9:.0f} GFLOP/s; bare decoding {bare:.2f} s, the rollout takes {of_bare:.2f} times that")
    if options.csv:
        write_rows(options.csv, rows)
    student = flop.spent["student"] / clock.spent["student"] / peak
    return int(student < options.peak_bar or of_bare > options.bare_bar)


if __name__ == "__main__":
    sys.exit(main())
