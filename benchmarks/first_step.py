"""CPU time from the start of the process to the first optimizer step of the quickstart, by its parts.

    python benchmarks/first_step.py --csv first_step.csv

Each run is a new process with one thread. ``bare`` is a process that only imports torch, Lightning and the model
classes of transformers. The variants run alternately; the best of some runs counts.

import   imports, reading the configuration, making the environments
load     tokenizer, model and the checks of its architecture
set up   everything else before the rollout: trainer, loggers, an evaluation of one episode
rollout  the episodes of the first step
learn    reviews, losses, gradient and optimizer step

Exits with status 1 if the whole takes more than ``--bar`` times ``bare``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tables import write_rows

PARTS = ("import", "load", "set up", "rollout", "learn")
BARE = """
import time, torch, lightning.pytorch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.qwen3 import modeling_qwen3
print(time.process_time())
"""


def first_step() -> None:
    """Run the quickstart up to its first optimizer step, print the parts and end the process."""
    from hero_pl.cli.main import main
    from hero_pl.module import HeroModule
    from hero_pl.policy.huggingface import HuggingFacePolicy
    from hero_pl.rollout.collect import Collector

    begun: dict[str, float] = {}
    ended: dict[str, float] = {}

    def watch(kind: type, method: str) -> None:
        plain = getattr(kind, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            begun[method] = time.process_time()
            found = plain(*args, **kwargs)
            ended[method] = time.process_time()
            if method == "training_step":
                marks = [begun["load"], ended["load"], begun["collect"], ended["collect"], ended[method]]
                before = [0.0, *marks]
                print(json.dumps([one - other for one, other in zip(marks, before, strict=False)]), flush=True)
                os._exit(0)
            return found

        setattr(kind, method, watched)

    def load_once(policy: HuggingFacePolicy, load: Any = HuggingFacePolicy.load) -> None:
        if policy.network is None:
            begun["load"] = time.process_time()
            load(policy)
            ended["load"] = time.process_time()

    HuggingFacePolicy.load = load_once  # type: ignore[method-assign]
    watch(Collector, "collect")
    watch(HeroModule, "training_step")
    main(["fit", "--config", "hero_pl:quickstart", "--held_out.episodes", "1", "--held_out.at_turns", "[]"])


def run(*command: str) -> str:
    """The last line that a new Python process prints."""
    path = os.pathsep.join(os.path.abspath(part) for part in sys.path if part)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    return done.stdout.splitlines()[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bar", type=float, default=2.0)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        first_step()
    bare, runs = [], []
    for _ in range(options.repeats):
        bare.append(float(run("-c", BARE)))
        runs.append(json.loads(run(str(Path(__file__).resolve()), "--child")))
    best = min(runs, key=sum)
    ratio = sum(best) / min(bare)
    rows = [{"part": part, "cpu_s": round(spent, 2)} for part, spent in zip(PARTS, best, strict=True)]
    rows += [{"part": "whole", "cpu_s": round(sum(best), 2)}, {"part": "bare", "cpu_s": round(min(bare), 2)}]
    for row in rows:
        print(f"{row['part']:>8}{row['cpu_s']:>8}")
    print(f"the first step takes {ratio:.2f} times the imports alone")
    if options.csv:
        write_rows(options.csv, rows)
    return int(ratio > options.bar)


if __name__ == "__main__":
    sys.exit(main())
