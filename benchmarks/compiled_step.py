"""Whether a compiled decoding step pays: time of one pass as transformers runs it, and through torch.compile.

    python benchmarks/compiled_step.py                                  # the policy of the quickstart
    python benchmarks/compiled_step.py --pretrained models/smollm2 --device cuda

A compiled step needs fixed shapes, so keys and values are written into a place of their final length, and attention
reads all of it under a mask. The script checks that the logits are those of a growing cache. It prints the milliseconds
of a pass (CPU time of one thread on a CPU, wall time on other devices), the seconds of compilation, and after how many
passes it has paid. hero_pl does not compile: nothing here is part of its sampler.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # the compilation of an earlier run must not be used

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Cache, DynamicCache

from hero_pl.policy.cache_input import cache_input
from hero_pl.policy.loading import resolve


class FixedCache(Cache):
    """Keys and values of all layers in places of fixed length; the new token of each row goes to ``slot``."""

    def __init__(self, rooms: list[tuple[Tensor, Tensor]], slot: Tensor) -> None:
        super().__init__(layers=[])
        self.rooms, self.slot = rooms, slot

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        for room, new in zip(self.rooms[layer], (keys, values), strict=True):
            room.index_copy_(2, self.slot, new)
        return self.rooms[layer]

    def get_seq_length(self, layer: int = 0) -> int:
        return 0  # positions and mask are given


def per_pass_ms(work: Callable[[], Any], device: str, passes: int) -> float:
    """The best of three series."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    found = []
    for _ in range(3):
        wait(device)
        started = clock()
        for _ in range(passes):
            work()
        wait(device)
        found.append((clock() - started) / passes * 1e3)
    return min(found)


def wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", default="hero_pl:pocket-shop")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256, help="tokens of each row before the step")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--passes", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, length, device = options.rows, options.length, options.device
    dtype = getattr(torch, options.dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(resolve(options.pretrained), dtype=dtype).to(device).eval()
    ids = torch.randint(0, model.config.vocab_size, (rows, length + 1), device=device)
    grown = DynamicCache()
    model(input_ids=ids[:, :-1], logits_to_keep=1, **cache_input(model, grown))
    rooms = []
    for layer in grown.layers:
        keys, values = (torch.nn.functional.pad(states, (0, 0, 0, 64)) for states in (layer.keys, layer.values))
        rooms.append((keys, values))
    slot = torch.tensor([length], device=device)
    positions = torch.full((rows, 1), length, device=device)
    seen = (torch.arange(length + 64, device=device) <= length).expand(rows, 1, 1, -1)

    def usual() -> Tensor:
        logits: Tensor = model(input_ids=ids[:, -1:], position_ids=positions, **cache_input(model, grown)).logits
        grown.crop(-1)
        return logits

    def fixed() -> Tensor:
        cache = cache_input(model, FixedCache(rooms, slot))
        return model(input_ids=ids[:, -1:], position_ids=positions, attention_mask=seen, **cache).logits  # type: ignore[no-any-return]

    graphs = {"mode": "reduce-overhead"} if options.backend == "inductor" else {}
    compiled = torch.compile(fixed, backend=options.backend, dynamic=False, fullgraph=True, **graphs)
    started = time.perf_counter()
    gap = (compiled().log_softmax(-1) - usual().log_softmax(-1)).abs().max()
    wait(device)
    spent = time.perf_counter() - started
    before, shaped, after = (per_pass_ms(work, device, options.passes) for work in (usual, fixed, compiled))
    print(f"usual {before:.2f} ms, fixed shapes {shaped:.2f} ms, compiled {after:.2f} ms")
    print(f"compilation {spent:.0f} s; largest difference of log-probabilities {gap:.1e}")
    print(f"paid after {spent / (before - after) * 1e3:.0f} passes" if after < before else "it does not pay")
    return 0


if __name__ == "__main__":
    sys.exit(main())
