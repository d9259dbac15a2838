"""Run methods x turn budgets x seeds on a suite, with one resumable command.

    python benchmarks/turn_budget.py --suite pocket-webshop --seeds 0 1 2 --lr 1e-3 grpo=2e-3 --out runs/turn_budget
    python benchmarks/turn_budget.py --suite pocket-webshop --seeds 0 1 2 3 4 --tune --out runs/tuned
    python benchmarks/turn_budget.py --list
    python benchmarks/turn_budget.py --suite webshop --dry-run --out runs/webshop
    python benchmarks/turn_budget.py --suite webshop --collect --out runs/webshop

Every cell is a ``hero_pl fit`` with overlays, evaluated at every budget. Finished cells are not run again, so the same
command continues after an interruption; crashed cells stay in the table and are tried again. Cells save themselves, so
one that takes hours goes on where it was, as long as the code is the same. With ``--tune`` every method
first runs the same learning rates on the validation split of a different environment (another catalog or database) with
separate seeds, all reported in ``tuning.csv``; the rate with the highest mean over the budgets is then used on the test
split.

``--dry-run`` writes the overlay of every cell and prints its command, to run it on another machine (there is none for
the base policy, which every other cell evaluates at 0 turns); ``--collect`` reports the results that exist. With
``--tune`` it prints the cells of the tuning first, and when all of them have ended those of the test.

Writes ``results.csv`` (one row per run and budget), ``table.md`` and ``curves.png``. Compare methods with intervals by
``hero_pl compare OUT/cells --budget 500``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from cells import CRASHED, DONE, NOTHING, Cell, adopt, prepare, result_of, rows_of
from methods import BASE, METHODS
from suites import SUITES, available, base_policies, policy_fault, why_not
from tables import choose, draw, read_rows, report, tuning_table, write_rows
from workers import run_cells

BUDGETS = (100, 250, 500, 1000, 2000, 4000)
TUNING_SEED = 100
ALL = ""
"""Stands for every method in ``--lr``."""


def options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="pocket-webshop", choices=list(SUITES))
    parser.add_argument("--methods", nargs="+", help="default: all methods of --list; overlays by file name also work")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--policies", nargs="+", help="base policies to start from")
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS), help="training turns, up to 20000")
    parser.add_argument("--long-budgets", nargs="+", type=int, default=[], help="additional budgets for --long-methods")
    parser.add_argument("--long-methods", nargs="+", default=[], help="methods to train up to --long-budgets")
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--lr",
        nargs="+",
        default=[],
        metavar="RATE",
        help="learning rate of every method, or METHOD=RATE of one; default: that of the suite's configuration",
    )
    rate.add_argument(
        "--tune", action="store_true", help="choose the learning rate of each method on the validation split"
    )
    parser.add_argument("--rates", nargs="+", type=float, help="learning rates for --tune, the same for every method")
    parser.add_argument("--tune-seeds", nargs="+", type=int, default=[TUNING_SEED])
    parser.add_argument("--tune-budgets", nargs="+", type=int, help="default: --budgets")
    parser.add_argument("--episodes", type=int, default=250, help="held-out episodes per evaluation")
    parser.add_argument("--endpoint", nargs=2, metavar=("URL", "MODEL"), help="external reflector of hero_external")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings that override those of every cell"
    )
    parser.add_argument("--parallel", type=int, default=2, help="worker processes, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/turn_budget"))
    parser.add_argument("--list", action="store_true", help="show suites and methods")
    parser.add_argument("--dry-run", action="store_true", help="write overlays, print commands, run none")
    parser.add_argument("--collect", action="store_true", help="run none, report the finished cells")
    args = parser.parse_args(words)
    suite = SUITES[args.suite]
    known = available(suite, args.endpoint)
    for method in args.methods or []:
        if reason := why_not(suite, method, args.endpoint):
            parser.error(f"--methods {method}: {reason}.")
    if wrong := [word for word in args.set if "=" not in word]:
        parser.error(f"--set {wrong[0]}: expected KEY=VALUE, for example model.schedule=linear.")
    args.set = tuple((key, yaml.safe_load(value)) for key, _, value in (word.partition("=") for word in args.set))
    args.methods = args.methods or known
    args.lr = dict(_rate(word, args.methods, parser) for word in args.lr)
    args.policies = args.policies or base_policies(suite)
    for policy in args.policies:
        if fault := policy_fault(policy):
            parser.error(f"--policies {policy}: {fault}.")
    args.rates = args.rates or list(suite.rates)
    if strangers := sorted(set(args.long_methods) - set(args.methods)):
        parser.error(f"--long-methods {strangers[0]}: not one of the methods of this grid.")
    if bool(args.long_methods) != bool(args.long_budgets):
        parser.error("--long-methods and --long-budgets have to be given together.")
    args.budgets = sorted(set(args.budgets))
    args.tune_budgets = sorted(set(args.tune_budgets or args.budgets))
    every = args.budgets + args.tune_budgets + args.long_budgets
    if min(every) < 1 or max(every) > 20_000:
        parser.error("--budgets: expected training turns from 1 to 20000; the evaluation at 0 is always included.")
    if args.episodes < 1 or args.parallel < 1:
        parser.error("--episodes and --parallel: expected at least 1.")
    if args.tune and set(args.methods) == {BASE}:
        parser.error(f"--tune --methods {BASE}: the base policy has no learning rate. Name a method that trains.")
    if args.tune and set(args.tune_seeds) & set(args.seeds):
        parser.error(f"--tune-seeds {args.tune_seeds} and --seeds {args.seeds} overlap; give different seeds.")
    if not (args.list or args.dry_run or args.collect or suite.on_cpu):
        parser.error(
            f"the suite {suite.name} needs a GPU: --dry-run prints its commands, --collect reads their results."
        )
    args.out = args.out.resolve()
    return args


def _rate(word: str, methods: Sequence[str], parser: argparse.ArgumentParser) -> tuple[str, float]:
    """Method, or ``ALL``, and its learning rate."""
    method, _, number = word.rpartition("=")
    try:
        rate = float(number)
    except ValueError:
        parser.error(f"--lr {word}: expected a learning rate, or METHOD=RATE, for example 1e-3 or grpo=4e-4.")
    if method and method not in methods:
        parser.error(f"--lr {word}: {method} is not one of the methods of this grid.")
    return method or ALL, rate


def tuning_cells(args: argparse.Namespace) -> list[Cell]:
    """Tuning cells: the same learning rates for every trained method."""
    return [
        Cell(
            args.suite,
            method,
            policy,
            rate,
            seed,
            tuple(args.tune_budgets),
            "validate",
            args.episodes,
            endpoint(args),
            args.set,
        )
        for seed in args.tune_seeds
        for policy in args.policies
        for method in args.methods
        if method != BASE
        for rate in args.rates
    ]


def main_cells(args: argparse.Namespace, rates: dict[str, float]) -> list[Cell]:
    """Cells ordered by seed, so that an interrupted grid is balanced."""
    return [
        Cell(
            args.suite,
            method,
            policy,
            rates[method],
            seed,
            marks(args, method),
            "test",
            args.episodes,
            endpoint(args),
            args.set,
        )
        for seed in args.seeds
        for policy in args.policies
        for method in args.methods
    ]


def given_rates(args: argparse.Namespace) -> dict[str, float]:
    """Learning rate of each method without tuning."""
    default = args.lr.get(ALL, float(SUITES[args.suite].values["model"].get("lr", 1e-5)))
    return {method: args.lr.get(method, default) for method in args.methods}


def marks(args: argparse.Namespace, method: str) -> tuple[int, ...]:
    """Budgets at which a method is evaluated on the test split."""
    return tuple(sorted({*args.budgets, *(args.long_budgets if method in args.long_methods else ())}))


def endpoint(args: argparse.Namespace) -> tuple[str, str] | None:
    """Endpoint in the form stored in a cell."""
    return (args.endpoint[0], args.endpoint[1]) if args.endpoint else None


def collect(cells: Sequence[Cell], out: Path, tuned: bool) -> list[dict[str, Any]]:
    """Rows of all cells, including those that crashed or were not run."""
    return [row for cell in cells for row in rows_of(cell, result_of(cell, out), tuned and cell.method != BASE)]


def tune(args: argparse.Namespace) -> dict[str, float]:
    """Run the tuning cells, write ``tuning.csv`` and choose the learning rates.

    Raises:
        SystemExit: Cells that were to be run elsewhere have not ended, so there is nothing to choose from yet.
    """
    cells, folder = tuning_cells(args), args.out / "tuning"
    for cell in cells:
        adopt(cell, folder)
    if args.dry_run:
        for cell in cells:
            if result_of(cell, folder) is None:
                print(prepare(cell, folder))
    elif not args.collect:
        run_cells(cells, folder, args.parallel)
    write_rows(args.out / "tuning.csv", collect(cells, folder, True))
    rows = read_rows(args.out / "tuning.csv")
    (args.out / "tuning.md").write_text(tuning_table(rows), encoding="utf-8")
    if missing := sum(result_of(cell, folder) is None for cell in cells):
        raise SystemExit(
            f"{missing} of {len(cells)} tuning cells have not ended, so no rate can be chosen. Run the commands that "
            "--dry-run prints; then the same command goes on with the cells of the test."
        )
    played = {cell.method for cell in cells if (result_of(cell, folder) or NOTHING)["status"] == DONE}
    if lost := [method for method in args.methods if method not in (BASE, *played)]:
        raise SystemExit(f"Every tuning cell of {lost[0]} crashed, see tuning.csv, so no rate can be chosen for it.")
    print(tuning_table(rows), file=sys.stderr if args.dry_run else sys.stdout)
    return {method: float(choose(rows, method)) for method in args.methods if method != BASE}


def show(args: argparse.Namespace) -> None:
    """Print suites and methods, and why a method cannot run here."""
    for suite in SUITES.values():
        print(f"{suite.name}: {suite.config}, {'CPU' if suite.on_cpu else 'GPU'}. {suite.says}")
    print(f"\nMethods of {args.suite}:")
    for name, method in METHODS.items():
        reason = why_not(SUITES[args.suite], name, args.endpoint)
        print(f"  {name:26} {method.title}" + (f" (not here: {reason})" if reason else ""))


def main() -> None:
    """Tune if requested, run, report."""
    args = options()
    if args.list:
        show(args)
        return
    suite = SUITES[args.suite]
    rates = given_rates(args)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.tune:
        rates |= tune(args)
    cells, folder = main_cells(args, rates), args.out / "cells"
    if args.dry_run:
        for cell in cells:
            if cell.method != BASE:
                print(prepare(cell, folder))
        return
    for cell in cells:
        adopt(cell, folder)
    if args.collect and not any(result_of(cell, folder) for cell in cells):
        raise SystemExit(
            f"{folder}: none of the {len(cells)} cells of this grid has ended there, for example "
            f"{cells[-1].folder(folder)}. Run the commands that --dry-run prints with the same options."
        )
    try:
        if not args.collect:
            run_cells(cells, folder, args.parallel)
    finally:
        if any(result_of(cell, folder) for cell in cells):
            finish(cells, folder, args, suite.says)
    ended = [(result_of(cell, folder) or NOTHING)["status"] for cell in cells]
    if crashed := ended.count(CRASHED):
        raise SystemExit(f"{crashed} of {len(cells)} cells crashed; the same command tries them again.")
    missing = len(cells) - ended.count(DONE)
    if missing and not args.collect:
        raise SystemExit(
            f"{missing} of {len(cells)} cells have no result in {folder}, although they were run: weights or "
            "configuration files have changed meanwhile. The same command runs them as they are now."
        )


def finish(cells: Sequence[Cell], folder: Path, args: argparse.Namespace, says: str) -> None:
    """Write results, tables and curves of what there is."""
    write_rows(args.out / "results.csv", collect(cells, folder, args.tune))
    rows = read_rows(args.out / "results.csv")
    (args.out / "table.md").write_text(report(rows, says), encoding="utf-8")
    done = sum((result_of(cell, folder) or {}).get("status") == DONE for cell in cells)
    print(report(rows, says))
    print(f"{done} of {len(cells)} cells are done. Wrote results.csv, table.md and curves.png to {args.out}")
    draw(rows, args.out / "curves.png")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
