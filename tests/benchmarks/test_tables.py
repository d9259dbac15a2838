"""Tables of a grid: every run counts, intervals by hand, the chosen rate."""

from pathlib import Path

import pytest
from tables import (
    choose,
    cost_table,
    draw,
    read_rows,
    report,
    run_table,
    summary,
    tuning_table,
    value_table,
    write_rows,
)

from hero_pl.runs.plots import Curve

Row = dict[str, str]


def row(method: str, seed: int, budget: int, success: str, **more: str) -> Row:
    values = {"suite": "s", "method": method, "base": "b", "lr": "0.001", "tuned": "False", "seed": str(seed)}
    return {**values, "stage": "test", "budget": str(budget), "status": "done", "success": success, "error": ""} | more


ROWS = [
    row("base", 0, 0, "0.1", lr=""),
    row("base", 1, 0, "0.3", lr=""),
    row("hero_rule", 0, 0, "0.1"),
    row("hero_rule", 0, 250, "0.8"),
    row("hero_rule", 1, 0, "0.3"),
    row("hero_rule", 1, 250, "0.9"),
    row("grpo", 0, 0, "0.1"),
    row("grpo", 0, 250, "0.0"),
    row("grpo", 1, 0, "0.3", status="crashed", error="RuntimeError: memory"),
    row("grpo", 1, 250, "", status="crashed", error="RuntimeError: memory"),
]


def test_shares_are_cut_off_at_their_ends_and_one_run_has_no_interval() -> None:
    assert summary([0.8, 0.9]) == "0.85 [0.21, 1.00] (0.80 to 0.90)"
    assert summary([8.0, 9.0], share=False) == "8.50 [2.15, 14.85] (8.00 to 9.00)"
    assert summary([0.5]) == "0.50"
    assert summary([]) == "not run"
    assert summary([0.8, 0.9], runs=3) == "0.85 [0.21, 1.00] (0.80 to 0.90), 2 of 3 runs"
    assert summary([0.8, 0.8], runs=3) == "0.80 (all 2 alike), 2 of 3 runs"


def test_the_table_has_a_row_per_method_and_says_what_crashed() -> None:
    lines = value_table(ROWS).splitlines()
    assert lines[0] == "| method | lr | runs | 0 | 250 |"
    assert lines[2].startswith("| Base, not trained |  | 2 | 0.20 [0.00, 1.00] (0.10 to 0.30) | 0.20 ")
    assert (
        lines[3] == "| GRPO, group of 8 | 0.001 | 2, 1 crashed | 0.20 [0.00, 1.00] (0.10 to 0.30) | 0.00, 1 of 2 runs |"
    )
    assert lines[4].endswith("| 0.85 [0.21, 1.00] (0.80 to 0.90) |")


def test_the_score_of_doing_nothing_and_the_user_stand_in_the_tables() -> None:
    rows = [{**one, "do_nothing_floor": "0.056", "user": "scripted-full"} for one in ROWS]
    assert value_table(rows).splitlines()[2] == "| doing nothing |  |  | 0.06 | 0.06 |"
    assert "doing nothing" not in value_table(rows, "turns") + value_table(ROWS)
    assert report(rows, "A suite.").startswith("A suite. Played with the user scripted-full.")


def test_every_run_is_listed_with_its_end() -> None:
    lines = run_table(ROWS).splitlines()[2:]
    assert len(lines) == 6
    assert "| GRPO, group of 8 | b | 0.001 | 1 | 0.30 |  | crashed: RuntimeError: memory |" in lines
    rows = [row("grpo", 0, 0, "0.1", episodes="64"), row("grpo", 1, 0, "0.2", episodes="200")]
    assert [line.split(" | ")[4:6] for line in run_table(rows).splitlines()[2:]] == [["64", "0.10"], ["200", "0.20"]]


def test_a_report_names_each_base_policy_apart() -> None:
    rows = [*ROWS, row("hero_rule", 0, 250, "0.4", base="other")]
    page = report(rows, "What the suite is.")
    assert page.startswith("What the suite is.")
    assert "Base policy b:" in page
    assert "Base policy other:" in page


def test_results_survive_the_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "results.csv", ROWS)
    assert read_rows(tmp_path / "results.csv") == ROWS


TUNING = [
    row("grpo", 100, 0, "0.9", lr="0.001"),  # the untrained policy does not count
    row("grpo", 100, 250, "0.2", lr="0.001"),
    row("grpo", 100, 500, "0.4", lr="0.001"),
    row("grpo", 100, 250, "0.5", lr="0.002"),
    row("grpo", 100, 500, "", lr="0.002", status="crashed"),
    row("rloo", 100, 250, "0.2", lr="0.002"),
    row("rloo", 100, 250, "0.2", lr="0.001"),
]


def test_the_chosen_rate_has_the_best_mean_over_the_budgets_and_a_crash_counts_nothing() -> None:
    # 0.001: (0.2 + 0.4) / 2 = 0.3; 0.002: (0.5 + 0) / 2 = 0.25
    assert choose(TUNING, "grpo") == "0.001"
    assert choose(TUNING, "rloo") == "0.001"  # the smaller one on a tie
    assert "| GRPO, group of 8 | 0.300 (chosen) | 0.250 |" in tuning_table(TUNING)


def test_costs_of_different_rates_are_not_averaged() -> None:
    rows = [row("grpo", 0, 250, "0.1", steps="5"), row("grpo", 0, 250, "0.1", steps="9", lr="0.002")]
    lines = cost_table(rows).splitlines()[2:]
    assert [line.rstrip(" |").rpartition("| ")[2] for line in lines] == ["5.00", "9.00"]
    assert ["0.001" in line for line in lines] == [True, False]


def test_a_point_of_a_curve_is_the_mean_of_runs_that_were_all_evaluated_there(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[dict[str, Curve]]] = {}
    monkeypatch.setattr("hero_pl.runs.plots.draw_methods", lambda methods, *_: seen.update(methods))
    crashed = {"status": "crashed", "error": "RuntimeError: memory"}
    draw([*ROWS, row("hero_rule", 0, 100, "0.2"), row("grpo", 1, 100, "0.9", **crashed)], Path("unused.png"))
    drawn = {
        name: [list(zip(one["success"].turns, one["success"].values, strict=True)) for one in runs if one]
        for name, runs in seen.items()
        if name != "Base, not trained"
    }
    assert drawn == {
        "HERO, rule-based reflector, frozen teacher": [[(0.0, 0.1), (250.0, 0.8)], [(0.0, 0.3), (250.0, 0.9)]],
        "GRPO, group of 8": [[(0.0, 0.1), (250.0, 0.0)]],
    }
    assert len(seen["GRPO, group of 8"]) == 2  # so that the legend says "1 of 2 runs"


def test_curves_are_drawn_from_the_rows_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw([*ROWS, row("grpo", 0, 10_000, "0.5"), row("grpo", 0, 4000, "0.4")], tmp_path / "wide.png")
    draw(ROWS, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
