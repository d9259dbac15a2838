"""CPU time of the quickstart's training part, its shares, and the same of an earlier version.

    git worktree add earlier 2cbb01c
    python benchmarks/quickstart_cost.py --earlier earlier

Both versions run ``configs/quickstart.yaml`` without the evaluations, alternately, each in a process of its own, on one
thread; the best of some runs counts. The training part is everything that Lightning does per batch: rollout, reviews,
losses, gradient, optimizer step, records and logs.

prompts   the sampler's passes over prompts and observations, of rollout and reviews
tokens    its passes over one token per row
sampling  the rest of the sampler
student   its forward and backward passes, and the divergence
teacher   its scores
log       Lightning's log of the metrics
rest      environments, text, optimizer, records, checkpoints

Exits with status 1 if the training part takes more than ``--bar`` times that of the earlier version.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WHOLE = "rest"
PARTS = ("prompts", "tokens", "sampling", "student", "teacher", "log", WHOLE)


class Shares:
    """CPU seconds of parts; what runs inside another part is not counted there."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._open: list[str] = []
        self._since = 0.0

    def _mark(self) -> None:
        now = time.process_time()
        if self._open:
            self.spent[self._open[-1]] += now - self._since
        self._since = now

    def watch(self, part: str | Callable[..., str], holder: Any, name: str) -> None:
        """Count the calls of a function or method as this part, which may depend on their arguments."""
        plain = getattr(holder, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if part != WHOLE and not self._open:  # outside of the training part
                return plain(*args, **kwargs)
            self._mark()
            self._open.append(part if isinstance(part, str) else part(**kwargs))
            self.calls[self._open[-1]] += 1
            try:
                return plain(*args, **kwargs)
            finally:
                self._mark()
                self._open.pop()

        setattr(holder, name, watched)


def pass_over(input_ids: Any, **inputs: Any) -> str:
    return "tokens" if input_ids.shape[1] == 1 else "prompts"


def child(earlier: bool) -> None:
    """Run the quickstart in this process and print what the parts took."""
    from lightning.pytorch.loops import training_epoch_loop

    shares = Shares()
    shares.watch(WHOLE, training_epoch_loop._TrainingEpochLoop, "advance")
    if not earlier:
        from hero_pl import module
        from hero_pl.objectives.self_distillation import SelfDistillation
        from hero_pl.policy.sampler import CachedSession
        from hero_pl.policy.sampling_weights import SamplingWeights

        shares.watch(pass_over, SamplingWeights, "logits_at")
        shares.watch("sampling", CachedSession, "finished")
        shares.watch("student", module, "gradient")
        shares.watch("teacher", SelfDistillation, "teacher_scores")
        shares.watch("log", module.HeroModule, "_log_step")
    words = ["fit", "--config", "configs/quickstart.yaml", "--held_out.episodes", "0"]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        sys.argv = ["hero_pl", *words, "--trainer.logger.init_args.save_dir", folder]
        try:
            runpy.run_module("hero_pl", run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
    print(json.dumps({"spent": shares.spent, "calls": shares.calls}))


def run(tree: Path, *options: str) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds and calls of the parts in a new process with the hero_pl of this checkout."""
    paths = os.pathsep.join(str(path) for path in (tree, tree / "envs"))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, "--child", *options]
    done = subprocess.run(words, env=environment, cwd=tree, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        raise SystemExit(f"{tree}: the quickstart failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return found["spent"], found["calls"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--earlier", type=Path, help="checkout of an earlier version")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bar", type=float, default=0.65)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--without-parts", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.without_parts)
        return 0
    ours: list[dict[str, float]] = []
    theirs: list[float] = []
    for _ in range(options.repeats):
        spent, calls = run(HERE.parent)
        ours.append(spent)
        if options.earlier:
            theirs.append(run(options.earlier.resolve(), "--without-parts")[0][WHOLE])
    best = min(ours, key=lambda parts: sum(parts.values()))
    whole = sum(best.values())
    print("this version:", ", ".join(f"{sum(parts.values()):.2f}" for parts in ours), "CPU s")
    for part in PARTS:
        print(f"{part:>9} {best[part]:6.2f} s  {best[part] / whole:.2f}  {calls[part]:6} calls")
    if not theirs:
        return 0
    print("the earlier:", ", ".join(f"{spent:.2f}" for spent in theirs), "CPU s")
    print(f"{whole / min(theirs):.2f} of the earlier version; bar {options.bar}")
    return int(whole > options.bar * min(theirs))


if __name__ == "__main__":
    sys.exit(main())
