"""Differences of a table are those of runs with the same start and seed."""

import sys

import paired
import pytest
from tables import write_rows


def test_runs_are_paired_by_start_and_seed_and_those_without_a_partner_named(tmp_path, monkeypatch, capsys):
    values = {"a": {"x 0": 0.5, "x 1": 0.7, "y 1": 0.9}, "b": {"y 1": 0.3, "x 1": 0.2, "x 5": 0.0}}
    rows = [
        {"method": method, "base": run[0], "lr": 0.001, "seed": run[2], "budget": 400, "success": value}
        for method, runs in values.items()
        for run, value in runs.items()
    ]
    write_rows(tmp_path / "table.csv", rows)
    monkeypatch.setattr(sys, "argv", ["paired.py", str(tmp_path / "table.csv"), "a=1e-3", "b=1e-3", "--budget", "400"])
    paired.main()
    # 0.5 and 0.6: mean 0.55, half width 12.706 * 0.05
    assert capsys.readouterr().out.splitlines() == [
        "a=1e-3 - b=1e-3, success after 400 turns: 0.550 [-0.085, 1.185], 2 runs",
        "Left out, since only one method has it: x seed 0, x seed 5",
    ]
    with pytest.raises(SystemExit, match="no run of a=2e-3"):
        paired.by_run(tmp_path / "table.csv", "a=2e-3", 400, "success")
