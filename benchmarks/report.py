"""Rewrite the tables of the documents from the committed results, so that no figure is typed by hand.

    python benchmarks/report.py                    rewrite the tables of docs/ and README.md
    python benchmarks/report.py --check            only list tables that differ; exit status 1 if there are any
    python benchmarks/report.py --draw CSV PNG     draw a results.csv, or some of its --methods, --budgets and --bases

A table is between two comments. The first gives a file, a kind of table and optional settings; the second ends it:

    <!-- table: docs/results/pocket-webshop.csv success budgets=0,250,500 methods=base,hero_rule bases=pocket-shop -->
    <!-- end of table -->

Kinds for a ``results.csv``: ``success``, ``greedy``, ``reward``, ``turns`` (one row per method, one column per budget),
``short`` (success, mean and range only), ``costs`` (settings: ``budget``), ``runs`` (every run); for a ``tuning.csv``:
``tuning``; for a JSON file of numbers: ``json`` (one row per entry), for a Markdown file that a script wrote: ``text``.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from methods import BASE, ROOT
from tables import (
    Row,
    arms,
    budgets,
    cost_table,
    draw,
    markdown,
    numbers,
    of,
    of_arm,
    read_rows,
    run_table,
    tuning_table,
    value_table,
)

RESULTS = (
    *("real-shop", "real-webshop", "real-textworld"),
    *("pocket-shop", "pocket-retail", "base-policies", "quality", "costs"),
)
DOCUMENTS = ("docs/results.md", "docs/real_model.md", *(f"docs/results/{name}.md" for name in RESULTS), "README.md")
_TABLE = re.compile(r"(<!-- table: (\S+) (\w+)([^>]*?) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


class ReportError(ValueError):
    """A marker has an unknown file, kind or setting."""


def rewrite(text: str, root: Path = ROOT) -> str:
    """Return the document with all tables rewritten.

    Raises:
        ReportError: A marker is invalid or not closed.
    """
    if text.count("<!-- table:") != len(_TABLE.findall(text)):
        raise ReportError(
            "A table marker is not closed: every '<!-- table: FILE KIND -->' needs '<!-- end of table -->'."
        )
    return _TABLE.sub(lambda match: f"{match[1]}{make(root / match[2], match[3], match[4])}{match[6]}", text)


def make(path: Path, kind: str, words: str) -> str:
    """Format one table; ends with a newline."""
    settings = dict(word.partition("=")[::2] for word in words.split())
    if not path.is_file():
        raise ReportError(f"{path}: no such file. Commit the results together with the document.")
    if kind == "text":
        return path.read_text(encoding="utf-8").strip("\n") + "\n"
    if kind == "json":
        return _json(json.loads(path.read_text(encoding="utf-8")), settings.get("names", ""))
    if kind not in KINDS:
        raise ReportError(
            f"{path}: unknown kind of table {kind!r}. Expected one of: {', '.join([*KINDS, 'json', 'text'])}."
        )
    rows = select(read_rows(path), settings)
    if not rows:
        raise ReportError(f"{path}: no row fits {words.strip()!r}.")
    return KINDS[kind](rows, settings)


def select(rows: Sequence[Row], settings: dict[str, str]) -> list[Row]:
    """Rows of the given methods, budgets, base policies and rates, in the order of the file."""
    columns = {"methods": "method", "budgets": "budget", "bases": "base", "rates": "lr"}
    unknown = set(settings) - {*columns, "budget"}
    if unknown:
        raise ReportError(f"Unknown setting {sorted(unknown)[0]!r}. Expected: {', '.join([*columns, 'budget'])}.")
    found = list(rows)
    for setting, column in columns.items():
        if setting in settings:
            wanted = settings[setting].split(",")
            missing = set(wanted) - {row.get(column, "") for row in rows}
            if missing:
                raise ReportError(f"{setting}={settings[setting]}: no row has {column} {sorted(missing)[0]!r}.")
            keep = [*wanted, ""] if column == "lr" else wanted
            found = [row for row in found if row.get(column, "") in keep or _is_base_row(row, column)]
    return found


def _is_base_row(row: Row, column: str) -> bool:
    """Whether this is the base policy, which is measured at budget 0 only and shown at every budget."""
    return column == "budget" and row["method"] == "base"


def _values(column: str) -> Callable[[Sequence[Row], dict[str, str]], str]:
    return lambda rows, settings: value_table(rows, column, _marks(rows, settings))


def _short(rows: Sequence[Row], settings: dict[str, str]) -> str:
    """Mean success and range, for the README."""
    marks = _marks(rows, settings)
    body = []
    for (method, rate), name in arms(rows).items():
        cells = []
        for mark in marks:
            runs = of(of_arm(rows, method, rate), budget=0 if method == BASE else mark)
            values = numbers(runs, "success")
            spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 and mark else ""
            fewer = f", {len(values)} of {len(runs)} runs" if len(values) < len(runs) else ""
            cells.append(f"{statistics.fmean(values):.2f}{spread}{fewer}" if values else "not run")
        body.append([name, *cells])
    return markdown(["method", *("before" if mark == 0 else f"{mark} turns" for mark in marks)], body)


def _marks(rows: Sequence[Row], settings: dict[str, str]) -> list[int]:
    return [int(mark) for mark in settings["budgets"].split(",")] if "budgets" in settings else budgets(rows)


def _json(values: dict[str, Any], names: str) -> str:
    wanted = names.split(",") if names else list(values)
    missing = [name for name in wanted if name not in values]
    if missing:
        raise ReportError(f"names: unknown name {missing[0]!r}. Expected: {', '.join(values)}.")
    body = [[name, f"{value:.3f}" if isinstance(value, float) else str(value)] for name, value in values.items()]
    return markdown(["measure", "value"], [row for row in body if row[0] in wanted])


KINDS: dict[str, Callable[[Sequence[Row], dict[str, str]], str]] = {
    "success": _values("success"),
    "greedy": _values("success_greedy"),
    "reward": _values("reward"),
    "turns": _values("turns"),
    "short": _short,
    "costs": lambda rows, settings: cost_table(rows, int(settings["budget"]) if "budget" in settings else None),
    "runs": lambda rows, settings: run_table(rows),
    "tuning": lambda rows, settings: tuning_table(rows),
}


def main() -> None:
    """Rewrite or check the documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a table differs")
    parser.add_argument("--draw", nargs=2, type=Path, metavar=("CSV", "PNG"), help="draw curves instead")
    parser.add_argument("--methods", help="with --draw: only these, separated by commas")
    parser.add_argument("--budgets", help="with --draw: only these budgets, separated by commas")
    parser.add_argument("--bases", help="with --draw: only these base policies, separated by commas")
    parser.add_argument("documents", nargs="*", type=Path, default=[ROOT / name for name in DOCUMENTS])
    args = parser.parse_args()
    if args.draw:
        chosen = {"methods": args.methods, "budgets": args.budgets, "bases": args.bases}
        draw(select(read_rows(args.draw[0]), {key: value for key, value in chosen.items() if value}), args.draw[1])
        return
    stale = []
    for path in args.documents:
        text = path.read_text(encoding="utf-8")
        try:
            new = rewrite(text)
        except ReportError as error:
            raise SystemExit(f"{path}: {error}") from error
        if new != text:
            stale.append(path.name)
            if not args.check:
                path.write_text(new, encoding="utf-8")
        print(f"{path.name}: {len(_TABLE.findall(text))} tables, {'changed' if new != text else 'as the results say'}")
    if args.check and stale:
        raise SystemExit(f"Tables differ from the results in {', '.join(stale)}: run python benchmarks/report.py")


if __name__ == "__main__":
    main()
