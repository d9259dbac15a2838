"""Grids that were run in parts become one table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from cells import Cell, keep, prepare
from join import main
from tables import read_rows

CELL = Cell("pocket-webshop", "hero_rule", "hero_pl:pocket-shop", 1e-3, 0, (10, 20), more=(("held_out.greedy", False),))


def run(folder: Path, *cells: Cell, error: str = "") -> str:
    for cell in cells:
        prepare(cell, folder / "cells")
        keep(cell, folder / "cells", error, 1.0)
    return str(folder)


def test_parts_with_other_seeds_rates_and_budgets_become_one_sorted_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(tmp_path / "a", replace(CELL, seed=1), replace(CELL, method="grpo", lr=5e-4))
    second = run(tmp_path / "b", CELL, replace(CELL, lr=2e-3, budgets=(10,)))
    run(tmp_path / "b", replace(CELL, seed=7), error="ValueError: broken")
    prepare(replace(CELL, seed=8), tmp_path / "b" / "cells")
    for name, seed, lr in (("a", 0, 1e-3), ("b", 1, 5e-4)):  # a rate is nothing to the base policy
        run(tmp_path / name, replace(CELL, method="base", seed=seed, lr=lr))
    file = tmp_path / "all.csv"
    main([str(file), first, second])
    places = [(row["method"], row["lr"], row["seed"], row["budget"]) for row in read_rows(file)]
    of_rule = [("hero_rule", "0.001", seed, mark) for seed in ("0", "1") for mark in ("0", "10", "20")]
    said = capsys.readouterr().out
    assert sorted(line.partition(": ")[2] for line in said.splitlines()[:-1]) == [
        "left out, crashed with ValueError: broken",
        "left out, it has no result",
    ]
    assert [tuple(map(str, place)) for place in places] == [
        *[("base", "", seed, "0") for seed in ("0", "1")],
        *[("grpo", "0.0005", "0", mark) for mark in ("0", "10", "20")],
        *of_rule,
        *[("hero_rule", "0.002", "0", mark) for mark in ("0", "10")],
    ]


def test_a_run_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    folders = run(tmp_path / "a", CELL), run(tmp_path / "b", replace(CELL, budgets=(20,)))
    with pytest.raises(SystemExit, match="twice"):
        main([str(tmp_path / "all.csv"), *folders])


def with_config(folder: Path, cell: Cell, **changes: object) -> str:
    """A finished run with the configuration that it resolved."""
    text = run(folder, cell)
    model = {"lr": 1e-3, "clip": 1.0}
    config = {"model": model, "data": {"seed": cell.seed}, "seed_everything": cell.seed}
    place = cell.folder(folder / "cells") / "version_0"
    place.mkdir(exist_ok=True)
    (place / "config.yaml").write_text(yaml.safe_dump(config | changes))
    return text


def test_runs_with_different_settings_are_not_in_one_row(tmp_path: Path) -> None:
    here = with_config(tmp_path / "a", CELL)
    file = str(tmp_path / "all.csv")
    same = with_config(tmp_path / "b", replace(CELL, seed=1), data={"seed": 1, "ahead": 0})  # a key of newer code
    main([file, here, same])
    for i, (key, value) in enumerate((("lr", 2e-3), ("clip", 2.0))):
        model = {"lr": 1e-3, "clip": 1.0, key: value}
        second = with_config(tmp_path / f"c{i}", replace(CELL, seed=1), model=model)
        with pytest.raises(SystemExit, match=rf"in one row, but model\.{key} is (0\.001|1\.0) and {value}\."):
            main([file, here, second])
    fewer = run(tmp_path / "d", replace(CELL, seed=2, episodes=9))  # without a configuration that was resolved
    with pytest.raises(SystemExit, match=r"but held_out\.episodes is 250 and 9"):
        main([file, run(tmp_path / "e", CELL), fewer])


def test_runs_from_other_weights_are_not_in_one_row(tmp_path: Path) -> None:
    folders = []
    for name, seed in (("a", 0), ("b", 1)):
        folders.append(with_config(tmp_path / name, replace(CELL, seed=seed)))
        path = replace(CELL, seed=seed).folder(tmp_path / name / "cells") / "cell.json"
        said = json.loads(path.read_text())
        path.write_text(json.dumps({**said, "weights": {**said["weights"], "model.safetensors": name}}))
    with pytest.raises(SystemExit, match=r"but weights\.model\.safetensors is"):
        main([str(tmp_path / "all.csv"), *folders])


def test_a_folder_without_a_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no finished cell"):
        main([str(tmp_path / "all.csv"), str(tmp_path)])
