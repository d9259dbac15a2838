"""Cells of a grid: their identity, how they end, and that sharing a process changes no result."""

import json
import os
import shlex
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cell_endings import all_done, by_seed
from cells import Cell, can_go_on, curve, keep, prepare, result_of, rows_of, run_cell
from methods import METHODS
from suites import policy_fault
from workers import run_cells

from hero_pl.callbacks.interrupts import Interrupted
from hero_pl.callbacks.turn_budget import TurnBudget
from hero_pl.runs.jsonl import TornLineWarning

CELL = Cell("pocket-webshop", "feedback_only", "hero_pl:pocket-shop", 1e-3, 0, (10, 20), "test", 4)
LONGER = replace(CELL, budgets=(10, 60))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "hero_rule"},
        {"policy": "elsewhere/pocket-shop"},
        {"lr": 2e-3},
        {"seed": 1},
        {"budgets": (10, 30)},
        {"stage": "validate"},
        {"episodes": 5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_numbers_changes_the_folder(change: dict[str, Any], tmp_path: Path) -> None:
    assert replace(CELL, **change).folder(tmp_path) != CELL.folder(tmp_path)
    assert replace(CELL).folder(tmp_path) == CELL.folder(tmp_path)


def test_new_weights_of_the_base_policy_make_a_new_cell(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    weights = tmp_path / "policy" / "model.safetensors"
    weights.write_bytes(b"one")
    cell = replace(CELL, policy=str(tmp_path / "policy"))
    before = cell.folder(tmp_path)
    weights.write_bytes(b"two")
    assert cell.folder(tmp_path) != before


def test_the_policy_of_the_working_directory_is_used_and_known_by_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, here = tmp_path / "repository", tmp_path / "here"
    monkeypatch.setattr("suites.ROOT", root)
    monkeypatch.chdir(tmp_path)
    cell = replace(CELL, policy="models/mine")
    found = []
    for place in (root, here):
        (place / "models" / "mine").mkdir(parents=True)
        (place / "models" / "mine" / "model.safetensors").write_text(place.name)
        monkeypatch.chdir(here if place == here else tmp_path)
        policy = cell.overlay(tmp_path)["model"]["policy"]["init_args"]["pretrained"]
        found.append((policy, cell.identity()["weights"]))
    assert [policy for policy, _ in found] == [str(root / "models" / "mine"), "models/mine"]
    assert found[0][1] != found[1][1]
    assert policy_fault("models/mine") == ""
    (here / "models" / "mine" / "model.safetensors").unlink()
    assert "has no files" in policy_fault("models/mine")


@pytest.mark.parametrize("more", [False, True], ids=["of the suite", "by --set"])
def test_new_weights_of_a_second_policy_make_a_new_cell(
    more: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reviewer").mkdir()
    weights = tmp_path / "reviewer" / "model.safetensors"
    key, value = "model.objective.init_args.reflector.init_args.policy", {"pretrained": str(weights.parent)}
    if more:
        cell = replace(CELL, more=((f"{key}.pretrained", value["pretrained"]),))
    else:
        monkeypatch.setitem(METHODS, "hero_live", replace(METHODS["hero_live"], settings={key: value}))
        cell = replace(CELL, method="hero_live")
    weights.write_bytes(b"one")
    before = cell.folder(tmp_path)
    assert cell.folder(tmp_path) == before
    weights.write_bytes(b"two")
    assert cell.folder(tmp_path) != before


def test_what_the_suite_sets_on_top_makes_a_new_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = replace(CELL, method="hero_live").folder(tmp_path)
    changed = replace(METHODS["hero_live"], settings={"model.clip": 2.0})
    monkeypatch.setitem(METHODS, "hero_live", changed)
    assert replace(CELL, method="hero_live").folder(tmp_path) != before


def test_the_commit_of_a_result_is_that_of_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cells.commit", lambda: "at the start")
    prepare(CELL, tmp_path)
    monkeypatch.setattr("cells.commit", lambda: "at the end")
    keep(CELL, tmp_path, "")
    assert result_of(CELL, tmp_path)["commit"] == "at the start"


def test_runs_that_differ_in_the_seed_alone_are_one_method(tmp_path: Path) -> None:
    from hero_pl.runs.plots import method_name

    names = {method_name(replace(CELL, seed=seed).folder(tmp_path) / "version_0" / "metrics.csv") for seed in (0, 7)}
    assert len(names) == 1


def test_tuning_runs_carry_their_rate_in_the_name_under_which_they_are_compared() -> None:
    assert CELL.label == "feedback_only"
    assert replace(CELL, stage="validate").label == "feedback_only at 0.001"


@pytest.fixture
def grid(tmp_path: Path) -> list[Cell]:
    (tmp_path / "runs.txt").touch()
    return [replace(CELL, seed=seed) for seed in range(4)]


def test_one_cell_that_dies_or_fails_takes_no_other_with_it(grid: list[Cell], tmp_path: Path) -> None:
    lines: list[str] = []
    run_cells(grid, tmp_path, 1, lines.append, by_seed)
    results = [result_of(cell, tmp_path) or {} for cell in grid]
    assert [result["status"] for result in results] == ["done", "crashed", "crashed", "done"]
    assert "exit status 9" in results[1]["error"]
    assert results[2]["error"] == "ValueError: seed 2"
    assert sum("crashed" in line for line in lines) == 2
    rows = [row for cell in grid for row in rows_of(cell, result_of(cell, tmp_path), False)]
    assert [row["status"] for row in rows if row["budget"] == 20] == ["done", "crashed", "crashed", "done"]


def test_the_same_command_repeats_no_finished_cell_and_tries_crashed_ones_again(
    grid: list[Cell], tmp_path: Path
) -> None:
    run_cells(grid, tmp_path, 2, lambda line: None, by_seed)
    (tmp_path / "runs.txt").write_text("")
    run_cells(grid, tmp_path, 2, lambda line: None, all_done)
    assert sorted((tmp_path / "runs.txt").read_text().split()[1::2]) == ["1", "2"]
    assert all((result_of(cell, tmp_path) or {})["status"] == "done" for cell in grid)


def test_an_interrupted_grid_continues_where_it_stopped(grid: list[Cell], tmp_path: Path) -> None:
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells(grid, tmp_path, 1, interrupt, all_done)
    ended = [cell.seed for cell in grid if result_of(cell, tmp_path)]
    assert ended[:2] == [0, 1]
    assert len(ended) < 4
    run_cells(grid, tmp_path, 1, lambda line: None, all_done)
    assert (tmp_path / "runs.txt").read_text().split()[1::2] == ["0", "1", "2", "3"]


def test_a_cell_without_a_result_was_not_run(tmp_path: Path) -> None:
    rows = rows_of(CELL, result_of(CELL, tmp_path), False)
    assert [(row["budget"], row["status"], row["success"]) for row in rows] == [
        (0, "not run", None),
        (10, "not run", None),
        (20, "not run", None),
    ]


def test_a_crashed_run_keeps_the_budgets_that_it_had_reached(tmp_path: Path) -> None:
    run = CELL.folder(tmp_path) / "version_0"
    run.mkdir(parents=True)
    lines = [
        {"turns_budget": mark, "success": success, "reward": 0.5, "turns": 5}
        for mark, success in ((0, False), (0, True), (10, True), (10, True))
    ]
    (run / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    keep(CELL, tmp_path, "RuntimeError: out of memory")
    rows = rows_of(CELL, result_of(CELL, tmp_path), False)
    assert [row["success"] for row in rows] == [0.5, 1.0, None]
    assert {row["error"] for row in rows} == {"RuntimeError: out of memory"}


def test_of_a_crashed_run_broken_episodes_and_a_torn_line_are_left_out(tmp_path: Path) -> None:
    run = CELL.folder(tmp_path) / "version_0"
    run.mkdir(parents=True)
    row = {"turns_budget": 0, "success": True, "reward": 1.0, "turns": 5, "evaluable": True}
    broken = {**row, "success": False, "reward": 0.0, "evaluable": False}
    lines = [row, broken, {**broken, "turns_budget": 10}]
    torn = json.dumps({**row, "success": False})[:-9]
    (run / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    with pytest.warns(TornLineWarning):
        assert keep(CELL, tmp_path, "RuntimeError: out of memory") == "crashed"
    rows = rows_of(CELL, result_of(CELL, tmp_path), False)
    assert [(row["success"], row["reward"], row["episodes"]) for row in rows[:2]] == [(1.0, 1.0, 1), (None, None, None)]


def test_tokens_and_steps_are_summed_up_to_each_budget(tmp_path: Path) -> None:
    results = {
        mark: {"turns_used": used, "success": 0.5, "turns": 5.0} for mark, used in (("0", 0), ("10", 12), ("20", 25))
    }
    (tmp_path / "summary.json").write_text(json.dumps({"curve": results}))
    (tmp_path / "metrics.csv").write_text(
        "step,train/turns,rollout/action_tokens,reflection/tokens,teacher/tokens,train/skipped_steps,test/success\n"
        "0,0,,,,,0.1\n0,6,20,7,100,0,\n1,12,22,8,110,1,\n1,12,,,,,0.2\n2,25,30,9,120,0,\n"
    )
    points = curve(tmp_path)
    columns = ("acting_tokens", "reflecting_tokens", "teaching_tokens", "steps")
    assert [points["0"][name] for name in columns] == [0, 0, 0, 0]
    assert [points["10"][name] for name in columns] == [42, 15, 210, 1]  # one of the two steps was skipped
    assert [points["20"][name] for name in columns] == [72, 24, 330, 2]


def test_a_run_that_learned_nothing_crashed_unless_its_method_learns_from_rewards_alone(tmp_path: Path) -> None:
    for method, skipped, status in (("hero_rule", 1, "crashed"), ("hero_rule", 0, "done"), ("grpo", 1, "done")):
        cell = replace(CELL, method=method)
        run = cell.folder(tmp_path) / "version_0"
        run.mkdir(parents=True, exist_ok=True)
        rows = f"step,train/turns,rollout/action_tokens,train/skipped_steps\n0,6,20,{skipped}\n0,12,20,{skipped}\n"
        (run / "metrics.csv").write_text(rows)
        assert keep(cell, tmp_path, "") == status
        assert ("from any of 2 batches" in (result_of(cell, tmp_path) or {})["error"]) == (status == "crashed")


def test_with_several_updates_per_batch_steps_are_optimizer_steps(tmp_path: Path) -> None:
    results = {"20": {"turns_used": 24, "success": 0.5, "turns": 5.0}}
    (tmp_path / "summary.json").write_text(json.dumps({"curve": results}))
    (tmp_path / "metrics.csv").write_text(
        "step,train/turns,rollout/action_tokens,train/updates,train/skipped_steps\n"
        "3,6,20,3.0,0\n3,12,22,0.0,1\n5,18,30,2.0,0\n5,24,30,,0\n"  # the last row is of a version without the column
    )
    assert curve(tmp_path)["20"]["steps"] == 6


def numbers(cell: Cell, out: Path) -> list[dict[str, Any]]:
    """Results of a cell, without times."""
    assert (result_of(cell, out) or {})["status"] == "done", (cell.folder(out) / "log.txt").read_text()
    timed = ("train_cpu_s", "wall_s")
    return [
        {name: value for name, value in row.items() if name not in timed}
        for row in rows_of(cell, result_of(cell, out), tuned=False)
    ]


def test_cells_in_one_process_give_the_numbers_of_processes_of_their_own(tmp_path: Path) -> None:
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    for folder in (shared, alone):
        folder.mkdir()
    run_cell(replace(CELL, method="hero_self", lr=2e-3, seed=5), shared)
    run_cell(CELL, shared)
    run_cells([CELL], alone, 1, lambda line: None)  # a worker of its own
    result = numbers(CELL, alone)
    assert result == numbers(CELL, shared)
    assert result[-1]["steps"] > 0
    metrics = [(CELL.folder(out) / "version_0" / "metrics.csv").read_text() for out in (alone, shared)]
    assert metrics[0] == metrics[1]


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a cell that was told to stop in its second step."""

    def end(_: TurnBudget, trainer: Any, *__: Any) -> None:
        if trainer.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(TurnBudget, "on_train_batch_start", end)  # in the middle of a step
        with pytest.raises(Interrupted):
            run_cell(LONGER, tmp_path)
    assert result_of(LONGER, tmp_path) is None, "an interruption is no result"
    return tmp_path


def test_an_interrupted_cell_goes_on_and_gives_the_numbers_of_a_whole_one(interrupted: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    run_cell(LONGER, whole)
    folder = LONGER.folder(interrupted) / "version_0"
    assert list((folder / "checkpoints").glob("*.ckpt"))
    assert run_cell(LONGER, interrupted) == "done"
    assert numbers(LONGER, interrupted) == numbers(LONGER, whole)
    assert (result_of(LONGER, interrupted) or {})["wall_s"] is None, "nobody knows how long it stood still"
    assert "step=1.ckpt" in (folder / "starts.jsonl").read_text(), "it went on from the step that was saved"
    assert not (folder / "checkpoints").exists(), "a grid does not keep the weights of each cell"


def test_an_interrupted_cell_of_other_code_starts_again(interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_go_on(LONGER.folder(interrupted))
    monkeypatch.setattr("cells.commit", lambda: "another")
    assert not can_go_on(LONGER.folder(interrupted))


def test_the_base_policy_is_evaluated_on_the_episodes_of_the_others(tmp_path: Path) -> None:
    base = replace(CELL, method="base")
    run_cell(base, tmp_path)
    run_cell(CELL, tmp_path)
    (only,) = numbers(base, tmp_path)
    first = numbers(CELL, tmp_path)[0]
    names = ("budget", "success", "success_greedy", "reward", "turns", "invalid", "episodes", "steps")
    assert [only[name] for name in names] == [first[name] for name in names]


def test_a_cell_that_cannot_be_configured_is_reported(tmp_path: Path) -> None:
    cell = replace(CELL, policy="hero_pl:no-such-policy")
    assert run_cell(cell, tmp_path) == "crashed"
    assert (result_of(cell, tmp_path) or {})["error"]


def test_the_kept_overlay_is_a_configuration_with_its_command(tmp_path: Path) -> None:
    cell = replace(CELL, policy="hero_pl:no-such-policy")
    run_cell(cell, tmp_path)
    text = (cell.folder(tmp_path) / "overlay.yaml").read_text()
    assert text.startswith("# hero_pl fit --resume auto --config ")
    spaced = shlex.split(prepare(cell, tmp_path / "with space"))
    assert Path(spaced[-1]).is_file()
    assert yaml.safe_load(text)["held_out"]["at_turns"] == [10, 20]
