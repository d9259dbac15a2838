"""Write reports of ``hero_pl check-hints`` as one Markdown page.

    hero_pl check-hints --config configs/quickstart.yaml --episodes 64 --turns 32 --out FOLDER/hints-pocket-shop.json
    python benchmarks/hints.py FOLDER/hints-*.json --out docs/results/hints.md

One table per report: preferences for the wanted reply, ``(p - p0) / (p + p0)``, with 95 % intervals, and mean
probabilities; "feedback" is a hint with the next observation and the reward instead of the diagnosis.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from provenance import signed
from tables import markdown

CHANGES = {
    "all turns": "overall",
    "blamed turns": "blamed",
    "shuffled": "shuffled",
    "wrong target obeyed": "obeyed",
    "empty scaffold": "scaffold",
}
HEAD = ("wording", "verdict", *CHANGES, "P(target)", "with feedback only", "target first", "P(right)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    page = signed("\n\n".join(section(path) for path in args.reports))
    if args.out:
        args.out.write_text(page, encoding="utf-8")
    else:
        print(page)


def section(path: Path) -> str:
    """One report."""
    report = json.loads(path.read_text(encoding="utf-8"))
    best = report["best"]
    chosen = f"{best['template']} @ {best['position']}" if best else "none surely helps"
    said = (
        f"{report['blamed']} blamed turns and {report['right']} called right, of {report['episodes']} episodes; "
        f"{report['tokens']} tokens, {report['seconds']:.0f} s. Best: {chosen}."
    )
    bare = report["no_hint"]
    rows = [("no hint", "", "", "", "", "", "", share(bare["wanted"]), "", "", share(bare["right"]))]
    rows += [row(wording) for wording in report["wordings"]]
    return f"## {path.stem.removeprefix('hints-')}\n\n{said}\n\n{markdown(HEAD, rows)}"


def row(wording: dict[str, Any]) -> tuple[str, ...]:
    p = wording["probability"]
    name = f"{wording['template']} @ {wording['position']}"
    return (
        name,
        wording["verdict"],
        *(change(wording[key]) for key in CHANGES.values()),
        share(p["hint"]),
        share(p.get("feedback only")),
        share(wording.get("ranked_first", {}).get("blamed")),  # older reports have none
        share(p["right"]),
    )


def change(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    if found["low"] is None:
        return f"{found['mean']:+.2f} (one episode)"
    low, high = f"{found['low']:+.2f}", f"{found['high']:+.2f}"
    return f"{found['mean']:+.2f} ({'all alike' if low == high else f'{low} to {high}'})"


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
