"""Grids that were run in parts become one table."""

from dataclasses import replace
from pathlib import Path

import pytest
from cells import Cell, keep, prepare
from join import main
from tables import read_rows

CELL = Cell("pocket-webshop", "hero_rule", "hero_pl:pocket-shop", 1e-3, 0, (10, 20), more=(("held_out.greedy", False),))


def run(folder: Path, *cells: Cell, error: str = "") -> str:
    for cell in cells:
        prepare(cell, folder / "cells")
        keep(cell, folder / "cells", error, 1.0)
    return str(folder)


def test_parts_with_other_seeds_rates_and_budgets_become_one_sorted_table(tmp_path: Path) -> None:
    first = run(tmp_path / "a", replace(CELL, seed=1), replace(CELL, method="grpo", lr=5e-4))
    second = run(tmp_path / "b", CELL, replace(CELL, lr=2e-3, budgets=(10,)))
    run(tmp_path / "b", replace(CELL, seed=7), error="ValueError: broken")
    file = tmp_path / "all.csv"
    main([str(file), first, second])
    places = [(row["method"], row["lr"], row["seed"], row["budget"]) for row in read_rows(file)]
    of_rule = [("hero_rule", "0.001", seed, mark) for seed in ("0", "1") for mark in ("0", "10", "20")]
    assert [tuple(map(str, place)) for place in places] == [
        *[("grpo", "0.0005", "0", mark) for mark in ("0", "10", "20")],
        *of_rule,
        *[("hero_rule", "0.002", "0", mark) for mark in ("0", "10")],
    ]


def test_a_run_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    folders = run(tmp_path / "a", CELL), run(tmp_path / "b", replace(CELL, budgets=(20,)))
    with pytest.raises(SystemExit, match="twice"):
        main([str(tmp_path / "all.csv"), *folders])


def test_a_folder_without_a_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no finished cell"):
        main([str(tmp_path / "all.csv"), str(tmp_path)])
