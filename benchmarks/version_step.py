"""One HERO step of SmolLM2 in this version and in an earlier one, alternately, each in a process of its own.

    git worktree add earlier 2cbb01c
    python benchmarks/version_step.py --pretrained models/smollm2 --earlier earlier

Eight episodes of five turns with fixed lengths (a prompt like that of ``configs/smollm2_shop.yaml``), an adapter of
rank 16, a frozen teacher, a diagnosis for every turn in one wording, one thread. CPU time and peak memory of ``hero_pl
fit``; the first step, which also loads the model and measures the teacher, is subtracted.

float32    the settings of both versions as they come
shipped    the same with ``auto_precision``, as in ``configs/smollm2_shop.yaml``

Exits with status 1 if ``shipped`` is less than ``--bar`` times as fast as the earlier version.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memory import peak_mib

HERE = Path(__file__).resolve().parent
EPISODES, TURNS, PROMPT, OBSERVATION, ACTION = 8, 5, 140, 27, 8
WORDING = "note: {{ diagnosis }}"
"""Of the hint."""


def components() -> None:
    """Register environment and reflector with whatever version of hero_pl is on the path."""
    import gymnasium

    from hero_pl.reflection.base import Reflector
    from hero_pl.types import Diagnosis, Reflection

    class Fixed(gymnasium.Env):  # type: ignore[type-arg]
        """Answers every action with an observation of the same length; the episode never ends by itself."""

        def __init__(self, split: str = "train") -> None:
            self.task_ids = [str(i) for i in range(100)]
            self.observation_space = self.action_space = gymnasium.spaces.Text(1 << 20)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
            super().reset(seed=seed)
            task = (options or {}).get("task", "0")
            return "word " * PROMPT, {"task": task, "system_prompt": "", "tools": [], "role": "user"}

        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            return "word " * OBSERVATION, 0.0, False, False, {"role": "user", "success": False}

    class Ready(Reflector):
        """The same diagnosis for every turn, without a model."""

        def reflect(self, trajectories: Sequence[Any], policy: Any) -> list[Reflection]:
            return [
                Reflection(tuple(Diagnosis("the last choice was wrong", "high") for _ in t.turns), "ok")
                for t in trajectories
            ]

    gymnasium.register("version_step/Fixed-v0", entry_point=Fixed, order_enforce=False, disable_env_checker=True)
    sys.modules["version_step_parts"] = module = type(sys)("version_step_parts")
    Ready.__module__, Ready.__qualname__ = "version_step_parts", "Ready"
    module.Ready = Ready  # type: ignore[attr-defined]


def configuration(pretrained: str, steps: int, earlier: bool, shipped: bool) -> dict[str, Any]:
    policy = {"pretrained": pretrained, "parser": "PlainText", "lora": {"rank": 16, "alpha": 32}, "max_length": 2048}
    teacher = {"class_path": "HindsightTeacher", "init_args": {}}
    objective = {
        "reflector": {"class_path": "version_step_parts.Ready"},
        "teacher": teacher,
        "weights": "InitialWeights",
        "divergence": "JensenShannon",
    }
    found: dict[str, Any] = {
        "seed_everything": 0,
        "torch_threads": 1,
        "model": {
            "policy": {"class_path": "HuggingFacePolicy", "init_args": policy},
            "objective": {"class_path": "SelfDistillation", "init_args": objective},
            "lr": 1e-4,
        },
        "data": {
            "env": "version_step/Fixed-v0",
            "tasks_per_step": EPISODES,
            "group_size": 1,
            "max_action_tokens": ACTION,
            "limits": {"max_turns": TURNS, "parallel" if earlier else "num_envs": EPISODES},
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": steps,
            "limit_val_batches": 0,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
        },
        "held_out": {"episodes": 0},
    }
    if shipped:
        found["auto_precision"] = True
    return found


def child(file: str) -> None:
    """Run ``hero_pl fit`` in this process and print what it took."""
    components()
    sys.argv = ["hero_pl", "fit", "--config", file]
    try:
        runpy.run_module("hero_pl", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    print(json.dumps({"cpu": time.process_time(), "mib": peak_mib()}))


def run(tree: Path, settings: dict[str, Any]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        wording = Path(folder) / "hint.jinja"
        wording.write_text(WORDING, encoding="utf-8")
        settings["model"]["objective"]["init_args"]["teacher"]["init_args"]["template"] = str(wording)
        file = Path(folder) / "config.yaml"
        file.write_text(json.dumps(settings), encoding="utf-8")
        paths = os.pathsep.join(str(path) for path in (tree, tree / "envs", HERE))
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        words = [sys.executable, __file__, "--child", str(file)]
        done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tree}: hero_pl fit failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", help="folder of the model")
    parser.add_argument("--earlier", type=Path, help="checkout of an earlier version")
    parser.add_argument("--steps", type=int, default=2, help="steps that are timed")
    parser.add_argument("--rounds", type=int, default=2, help="the best of so many")
    parser.add_argument("--bar", type=float, default=2.0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return 0
    if not options.pretrained or not options.earlier:
        parser.error("--pretrained and --earlier are needed.")
    model, here = str(Path(options.pretrained).resolve()), HERE.parent
    sides = {
        "earlier": (options.earlier.resolve(), True, False),
        "float32": (here, False, False),
        "shipped": (here, False, True),
    }
    best: dict[str, float] = {}
    peak: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, (tree, earlier, shipped) in sides.items():
            first, last = (run(tree, configuration(model, steps, earlier, shipped)) for steps in (1, 1 + options.steps))
            seconds = (last["cpu"] - first["cpu"]) / options.steps
            best[name] = min(best.get(name, seconds), seconds)
            peak[name] = max(peak.get(name, 0.0), last["mib"])
            print(f"{name}: {seconds:.1f} CPU s a step, peak {last['mib']:.0f} MiB", flush=True)
    print(f"{'':10} {'CPU s':>7} {'times as fast':>14} {'peak MiB':>9}")
    for name, seconds in best.items():
        print(f"{name:10} {seconds:7.1f} {best['earlier'] / seconds:14.2f} {peak[name]:9.0f}")
    return int(best["earlier"] / best["shipped"] < options.bar)


if __name__ == "__main__":
    sys.exit(main())
