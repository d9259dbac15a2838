"""CPU time and memory of every step of a real run with SmolLM2 on one core, beside the estimate of the memory.

    python benchmarks/get_smollm2.py models/smollm2
    python benchmarks/laptop.py --out docs/results/laptop.json

Runs the commands of docs/real_model.md in one process each, one after the other (about half an hour): the warm-up in
float32, the measurement of the hints, 200 turns of HERO without evaluations, and an evaluation. The time is that of the
whole process, the memory its largest resident set, libraries included (about 0.5 GiB).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memory import peak_mib
from methods import OBJECTIVE, ROOT
from provenance import signed
from tables import markdown

GIB = 2**30
HEAD = ["step", "CPU time", "memory", "estimated"]
SFT, SHOP = (str(ROOT / f"configs/{name}.yaml") for name in ("smollm2_shop_sft", "smollm2_shop"))


def steps(model: str, runs: str) -> dict[str, tuple[list[str], list[str]]]:
    """Name of a step -> its command, and the options for its estimate (none if it is not estimated)."""
    logger = f"--trainer.logger.init_args.save_dir={runs}"
    warm = f"--model.policy.init_args.pretrained={runs}/smollm2-shop-sft/version_0/huggingface"
    wording = f"--{OBJECTIVE}.teacher.init_args.template=reply_exactly"
    sft = ["--config", SFT, f"--model.policy.init_args.pretrained={model}", "--auto_precision=false"]
    shop = ["--config", SHOP, warm, wording]
    quiet = [logger, "--held_out.episodes=0"]
    hints = ["--config", SHOP, warm, "--out", f"{runs}/hints.json"]
    return {
        "warm-up: 24 supervised steps, float32": (["fit", *sft, *quiet], [*sft, *quiet]),
        "`check-hints`, up to 16 + 16 turns, all wordings": (["check-hints", *hints], []),
        "the same with `--no-drop`": (["check-hints", *hints, "--no-drop"], []),
        "HERO, 200 turns": (["fit", *shop, *quiet], [*shop, *quiet]),
        "an evaluation of 200 episodes": (
            ["rollout", *shop, "--episodes", "200", "--stage", "test", "--out", f"{runs}/episodes.jsonl"],
            shop,
        ),
    }


def command(words: Sequence[str], log: Path) -> tuple[float, int]:
    """Run a command of ``hero_pl``; CPU seconds and the largest resident bytes.

    Raises:
        SystemExit: It failed; the end of its output is shown.
    """
    with log.open("w", encoding="utf-8") as out:
        running = subprocess.Popen([sys.executable, "-m", "hero_pl", *words], stdout=out, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise SystemExit(f"hero_pl {' '.join(words)} ended with {running.returncode}:\n{log.read_text()[-2000:]}")
    return used.ru_utime + used.ru_stime, int(peak_mib(used) * 2**20)


def estimated(words: Sequence[str]) -> int:
    """Largest number of bytes by ``hero_pl estimate``, without libraries."""
    asked = [sys.executable, "-m", "hero_pl", "estimate", *words, "--json"]
    return int(json.loads(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)["peak_bytes"])


def main() -> None:
    """Run all steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2", help="folder of get_smollm2.py")
    parser.add_argument("--runs", type=Path, default=Path("runs/laptop"), help="empty folder for the runs")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON and, beside it, the table")
    args = parser.parse_args()
    if args.runs.exists():
        parser.error(f"--runs {args.runs} exists: give a folder that does not.")
    args.runs.mkdir(parents=True)
    found: dict[str, Any] = {}
    for number, (name, (words, options)) in enumerate(steps(args.model, str(args.runs)).items()):
        seconds, resident = command(words, args.runs / f"{number}.log")
        found[name] = {"cpu_s": seconds, "resident": resident, "estimated": estimated(options) if options else None}
        print(f"{name}: {seconds:.0f} s, {resident / GIB:.1f} GiB", flush=True)
    text = signed(markdown(HEAD, [_row(name, one) for name, one in found.items()]))
    print(text)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(text, encoding="utf-8")


def _row(name: str, one: dict[str, Any]) -> list[str]:
    expected = f"{one['estimated'] / GIB:.1f} GiB" if one["estimated"] else ""
    return [name, f"{one['cpu_s']:.0f} s", f"{one['resident'] / GIB:.1f} GiB", expected]


if __name__ == "__main__":
    main()
