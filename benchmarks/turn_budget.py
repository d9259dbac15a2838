"""Methods x training-turn budgets x seeds, on the pocket shop; one resumable command.

    python benchmarks/turn_budget.py --out runs/turn_budget --seeds 0 1 2

Every cell is an ordinary ``hero_pl fit`` of ``configs/quickstart.yaml`` with one overlay, evaluated at every budget. A
finished cell (it has ``summary.json``) is not run again; a crashed one is reported and run again next time.
Writes ``results.csv``, ``table.md`` and ``curves.png``. This suite is a mechanism check whose answer is built in: the
base policy was taught to review and to obey hints, from rule labels.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
METHODS = {
    "hero_self": [],
    "hero_rule": ["configs/baselines/rule_reflector.yaml"],
    "feedback_only": ["configs/baselines/feedback_only.yaml"],
    "grpo": ["configs/baselines/grpo.yaml"],
    "reinforce": ["configs/baselines/reinforce.yaml"],
    "shuffled": ["configs/controls/shuffled_diagnosis.yaml"],
}


def run_cell(out: Path, method: str, seed: int, policy: str, budgets: Sequence[int], episodes: int) -> str:
    """Train one cell unless it is finished; returns what happened."""
    base = policy.rsplit(":", 1)[-1].replace("/", "-")
    name = f"{method}-{base}-seed{seed}"
    if list((out / name).rglob("summary.json")):
        return f"{name}: finished before"
    command = [sys.executable, "-m", "hero_pl", "fit", "--config", "configs/quickstart.yaml"]
    for overlay in METHODS[method]:
        command += ["--config", overlay]
    command += [
        *("--seed_everything", str(seed), "--data.seed", str(seed)),
        *("--model.policy.init_args.pretrained", policy),
        *("--turn_budget.max_turns", str(max(budgets)), "--held_out.at_turns", json.dumps(list(budgets))),
        *("--held_out.episodes", str(episodes), "--held_out.method", method, "--held_out.greedy", "true"),
        *("--trajectories.every_n_steps", "0"),
        *("--trainer.logger.init_args.save_dir", str(out), "--trainer.logger.init_args.name", name),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_checkpointing", "false"),
    ]
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{name}.log").open("w") as log:
        code = subprocess.run(
            command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        ).returncode
    return f"{name}: {'done' if code == 0 else f'CRASHED (exit status {code}), see {name}.log'}"


def collect(out: Path, budgets: Sequence[int]) -> list[dict[str, object]]:
    """One row per method, base, seed and budget."""
    rows: list[dict[str, object]] = []
    for path in sorted(out.rglob("summary.json")):
        summary = json.loads(path.read_text())
        base = path.parent.parent.name.removeprefix(summary["method"] + "-").rsplit("-seed", 1)[0]
        for mark in (0, *budgets):
            found = summary["curve"].get(str(mark))
            if found:
                rows.append(
                    {
                        "method": summary["method"],
                        "base": base,
                        "seed": summary["seed"],
                        "budget": mark,
                        **{key: found.get(key) for key in ("turns_used", "success", "success_greedy", "turns")},
                    }
                )
    return rows


def table(rows: list[dict[str, object]], budgets: Sequence[int]) -> str:
    """Mean success (smallest to largest run) per method and budget, as Markdown."""
    lines = ["| method | runs | " + " | ".join(map(str, (0, *budgets))) + " |", "|---" * (len(budgets) + 3) + "|"]
    for method in METHODS:
        cells, runs = [], 0
        for mark in (0, *budgets):
            values = [float(str(r["success"])) for r in rows if r["method"] == method and r["budget"] == mark]
            runs = max(runs, len(values))
            cells.append(
                f"{statistics.mean(values):.2f} ({min(values):.2f}-{max(values):.2f})" if values else "not run"
            )
        if runs:
            lines.append(f"| {method} | {runs} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/turn_budget"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--policies", nargs="+", default=["hero_pl:pocket-shop"], help="base policies (warm starts)")
    parser.add_argument("--budgets", nargs="+", type=int, default=[250, 500, 1000])
    parser.add_argument("--episodes", type=int, default=250)
    parser.add_argument("--parallel", type=int, default=2)
    args = parser.parse_args()
    out = args.out.resolve()
    cells = [(m, s, p) for s in args.seeds for p in args.policies for m in args.methods]
    with ThreadPoolExecutor(args.parallel) as pool:
        done = [pool.submit(run_cell, out, m, s, p, args.budgets, args.episodes) for m, s, p in cells]
        for job in done:
            print(job.result(), flush=True)
    rows = collect(out, args.budgets)
    if not rows:
        raise SystemExit("No cell finished; see the logs.")
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (out / "table.md").write_text(table(rows, args.budgets))
    print(table(rows, args.budgets))
    from hero_pl.plots import plot_runs

    plot_runs([out], out / "curves.png")


if __name__ == "__main__":
    main()
