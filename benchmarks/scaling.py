"""How the cost of one training step grows with turns, lengths, batch and width of the model.

    python benchmarks/scaling.py --csv scaling.csv

One quantity at a time is doubled (the width: from 128 to 256) in the load of ``whole_step.py``. Both sizes run
alternately in one process, on one thread; the growth is the ratio of their CPU time. ``bar`` is the largest growth
that is allowed: doubled work should cost twice as much, and attention a little more. Exits with status 1 above a bar.
"""

from __future__ import annotations

import argparse
import gc
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tables import write_rows
from whole_step import PARTS, Clock, Load, Ours

BASE = Load(episodes=2, turns=4, prompt=256, action=32, observation=48, diagnosis=40)
AXES: dict[str, tuple[Load, int, float]] = {
    "turns": (replace(BASE, turns=8), 128, 2.4),
    "prompt": (replace(BASE, prompt=512), 128, 1.6),
    "action": (replace(BASE, action=64), 128, 2.3),
    "observation": (replace(BASE, observation=96), 128, 1.6),
    "batch": (replace(BASE, episodes=4), 128, 2.1),
    "width": (BASE, 256, 3.0),
}
"""The changed load, the width, and the largest growth."""


def measure(name: str, vocab: int, repeats: int) -> dict[str, float | str]:
    load, width, bar = AXES[name]
    pair = (Ours(BASE, 128, vocab, "auto"), Ours(load, width, vocab, "auto"))
    best: list[Clock | None] = [None, None]
    for repeat in range(repeats + 1):
        for i, one in enumerate(pair):
            clock, _, _ = one.step(100 * repeat)
            kept = best[i]
            if repeat and (kept is None or clock.total < kept.total):  # the first step warms up
                best[i] = clock
    small, large = best
    assert small is not None
    assert large is not None
    parts = {part: round(large.spent[part] / small.spent[part], 2) for part in PARTS}
    return {"doubled": name, "growth": round(large.total / small.total, 2), "bar": bar, **parts}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(AXES), choices=list(AXES))
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.only:
        rows.append(measure(name, options.vocab, options.repeats))
        if len(rows) == 1:
            print("".join(f"{column:>13}" for column in rows[0]))
        print("".join(f"{value:>13}" for value in rows[-1].values()), flush=True)
        gc.collect()
    if options.csv:
        write_rows(options.csv, rows)
    return int(any(float(row["growth"]) > float(row["bar"]) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
