"""Differences of a table are those of runs with the same seed."""

import sys

import paired
import pytest
from tables import write_rows


def test_runs_are_paired_by_seed_and_those_without_a_partner_left_out(tmp_path, monkeypatch, capsys):
    values = {"a": {0: 0.5, 1: 0.7, 2: 0.9}, "b": {2: 0.3, 1: 0.2, 5: 0.0}}
    rows = [
        {"method": method, "lr": 0.001, "seed": seed, "budget": 400, "success": value}
        for method, seeds in values.items()
        for seed, value in seeds.items()
    ]
    write_rows(tmp_path / "table.csv", rows)
    monkeypatch.setattr(sys, "argv", ["paired.py", str(tmp_path / "table.csv"), "a=1e-3", "b=1e-3", "--budget", "400"])
    paired.main()
    # 0.5 and 0.6: mean 0.55, half width 12.706 * 0.05
    assert capsys.readouterr().out.strip() == "a=1e-3 - b=1e-3, success after 400 turns: 0.550 [-0.085, 1.185], 2 seeds"
    with pytest.raises(SystemExit, match="no run of a=2e-3"):
        paired.by_seed(tmp_path / "table.csv", "a=2e-3", 400, "success")
