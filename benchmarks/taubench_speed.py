"""Episodes per minute of the TauBench environment with scripted user and scripted expert, on one core.

    python benchmarks/taubench_speed.py [--data DIR] [--rounds N] [--csv FILE]

Without the official data only generated retail is measured. Loading is timed separately; the first round also computes
the ground-truth end states, so each round has its own row.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from provenance import commit
from tables import write_rows

from hero_envs.tau_bench.env import TauBenchEnv
from hero_envs.tau_bench.expert import ScriptedExpert
from hero_envs.tau_bench.official import default_data_dir


def play_all(env: TauBenchEnv, brief: bool) -> tuple[int, int, float]:
    """Successful episodes, steps, and seconds for one pass over the split."""
    right = steps = 0
    start = time.perf_counter()
    expert = ScriptedExpert(brief)
    for task_id in env.task_ids:
        observation, _ = env.reset(options={"task": task_id})
        expert.reset()
        terminated, reward = False, 0.0
        while not terminated:
            observation, reward, terminated, _, _ = env.step(expert.act(observation))
            steps += 1
        right += reward == 1.0
    return right, steps, time.perf_counter() - start


def main() -> None:
    """Measure every case and print one row per round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="folder with retail/ and airline/")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path, default=None)
    options = parser.parse_args()
    data = options.data or default_data_dir()
    cases: list[tuple[str, dict[str, Any]]] = [
        ("pocket_retail compact", {"domain": "pocket_retail", "split": "train", "compact": True}),
        ("pocket_retail", {"domain": "pocket_retail", "split": "train"}),
    ]
    if (data / "retail").is_dir():
        official = {"domain": "retail", "split": "train", "data_dir": data}
        cases += [("retail train", official), ("retail train, on demand", official | {"user": "scripted_on_demand"})]
    rows: list[dict[str, Any]] = []
    for name, arguments in cases:
        start = time.perf_counter()
        env = TauBenchEnv(**arguments)
        load_s = time.perf_counter() - start
        for number in range(1, options.rounds + 1):
            right, steps, seconds = play_all(env, brief=bool(arguments.get("compact")))
            count = len(env.task_ids)
            rows.append(
                {
                    "case": name,
                    "round": number,
                    "load_s": round(load_s, 3),
                    "episodes": count,
                    "success": right,
                    "steps_per_episode": round(steps / count, 2),
                    "step_us": round(1e6 * seconds / steps, 1),
                    "episodes_per_minute": round(60 * count / seconds),
                    "commit": commit(),
                }
            )
            print("  ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    if options.csv:
        write_rows(options.csv, rows)


if __name__ == "__main__":
    main()
