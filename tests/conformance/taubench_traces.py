"""Replay recorded TauBench traces against the environment's core and count what agrees.

    python tests/conformance/taubench_traces.py [--data DIR] FILE...

FILE is JSON Lines (plain or gzip), one episode per line. Every step is compared: observation, done flag, reward and
the hash of the whole database; the last one also the ground-truth hashes and the reward report. Results are printed
per class; the last line is ``N passed, M failed``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "envs")]

from hero_envs.tau_bench.database import Database, copy_json  # noqa: E402
from hero_envs.tau_bench.domain import Domain  # noqa: E402
from hero_envs.tau_bench.episode import Episode  # noqa: E402
from hero_envs.tau_bench.official import load_official  # noqa: E402
from hero_envs.tau_bench.users.recorded import RecordedUser  # noqa: E402

SHARED_DATA = ROOT.parent / "shared" / "data" / "taubench"


@dataclass
class Report:
    """Counts per class and the differences."""

    passed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


def episodes(file: Path) -> Iterator[dict[str, Any]]:
    """The episodes of one trace file."""
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def canonical_end_state(domain: Domain, episode: Episode) -> str:
    """Canonical hash of the ground-truth end state."""
    data = Database(domain.base)
    for action in episode.task.actions:
        tool = domain.tools.get(action.name)
        if tool is not None and not tool.terminal:
            tool.call(data, copy_json(dict(action.kwargs)))
    return data.canonical_hash()


def replay(trace: dict[str, Any], domain: Domain, report: Report) -> None:
    """Play one recorded episode and compare every step."""
    replies = [step["user_reply"] for step in trace["steps"] if "user_reply" in step and "raises" not in step]
    user = RecordedUser(replies, opening=trace.get("first_user_message", ""))
    episode = Episode(domain, domain.tasks[f"{trace['split']}-{trace['task_index']}"], user)
    opening = episode.start()
    if opening != trace.get("first_user_message", "") or episode.data.canonical_hash() != trace["initial_db"]:
        report.failed["start"] += 1
        report.differences.append(f"{trace['id']}: opening message or initial database differ")
        return
    report.passed["start"] += 1
    for number, recorded in enumerate(trace["steps"]):
        step = episode.step(recorded["name"], recorded["kwargs"])
        if "raises" in recorded:  # the original raised here; ours must only go on
            report.passed[recorded["class"]] += 1
            continue
        got = {"obs": step.observation, "done": step.done, "reward": step.reward, "db": episode.data.canonical_hash()}
        if step.reward_info is not None:
            info = step.reward_info["info"]
            keep = ("r_actions",) if "r_actions" in info else ("r_outputs", "outputs")
            got["reward_info"] = {key: info[key] for key in keep}
            got["gt_data_hash"] = domain.end_state_hash(episode.task)
            got["gt_db"] = canonical_end_state(domain, episode)
        wrong = [key for key, value in got.items() if recorded.get(key) != value]
        if wrong:
            report.failed[recorded["class"]] += 1
            shown = {key: (recorded.get(key), got[key]) for key in wrong}
            report.differences.append(f"{trace['id']} step {number} {recorded['name']}: (recorded, ours) {shown}")
        else:
            report.passed[recorded["class"]] += 1


def main() -> int:
    """Replay the files named on the command line; exit status 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, default=None, help="folder with retail/ and airline/")
    parser.add_argument("--show", type=int, default=20, help="differences to print")
    options = parser.parse_args()
    data = options.data or (SHARED_DATA if SHARED_DATA.is_dir() else None)
    total = Report()
    for file in options.files:
        report, count = Report(), 0
        for trace in episodes(file):
            replay(trace, load_official(trace["domain"], data), report)
            count += 1
        print(f"{file.name}: {count} episodes")
        for name in sorted({*report.passed, *report.failed}):
            print(f"  {name:10} {report.passed[name]:6} passed, {report.failed[name]:4} failed")
        total.passed += report.passed
        total.failed += report.failed
        total.differences += report.differences
    for difference in total.differences[: options.show]:
        print(difference[:2000])
    print(f"{sum(total.passed.values())} passed, {sum(total.failed.values())} failed")
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
