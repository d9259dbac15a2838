"""The command of the grid: its errors, its plan, and that the configuration of every cell can be parsed."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import turn_budget
import yaml
from cells import Cell
from methods import BASE, METHODS, ROOT, method_of
from suites import SUITES, available, settings
from tables import read_rows
from turn_budget import given_rates, main_cells, options, tuning_cells

from hero_pl.cli.lightning import instantiate
from hero_pl.teacher.render import compile_template, read_template


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (["--methods", "gpro"], "unknown method; expected one of base"),
        (["--methods", "hero_periodic"], "the suite pocket-webshop does not include it"),
        (["--suite", "webshop", "--methods", "rule_reflector", "--dry-run"], "no rule-based reflector"),
        (["--suite", "webshop", "--methods", "smrc_sd", "--dry-run"], "no expert that plays without mistakes"),
        (["--policies", "hero_pl:pocket-shop-b"], "benchmarks/checkpoints/pocket-shop-b"),
        (["--tune", "--methods", "base"], "Name a method that trains"),
        (["--methods", "hero_external"], "--endpoint URL MODEL"),
        (["--suite", "webshop", "--methods", "hero_rule", "--dry-run"], "no rule-based reflector"),
        (["--suite", "real-shop", "--methods", "hero_oracle", "--dry-run"], "has no oracle"),
        (["--suite", "webshop"], "--dry-run"),
        (["--budgets", "30000"], "from 1 to 20000"),
        (["--tune", "--seeds", "0", "100"], "overlap"),
        (["--tune", "--lr", "1e-3"], "not allowed with"),
        (["--lr", "fast"], "for example 1e-3 or grpo=4e-4"),
        (["--methods", "grpo", "--lr", "hero_rule=1e-3"], "not one of the methods of this grid"),
        (["--episodes", "0"], "at least 1"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_is_refused_with_its_cure(words: list[str], cure: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options(words)
    assert cure in capsys.readouterr().err


def test_every_method_is_tuned_with_the_same_rates_on_validation_with_other_seeds() -> None:
    rates = ["--rates", "1e-3", "2e-3", "--policies", "hero_pl:pocket-shop"]
    args = options(["--tune", "--methods", "base", "grpo", "hero_rule", "--seeds", "0", "1", *rates])
    cells = tuning_cells(args)
    effort = {method: sorted((c.lr, c.seed) for c in cells if c.method == method) for method in args.methods}
    assert effort["grpo"] == effort["hero_rule"] == [(1e-3, 100), (2e-3, 100)]
    assert effort["base"] == []
    assert {cell.stage for cell in cells} == {"validate"}
    held = main_cells(args, {"base": 1e-3, "grpo": 1e-3, "hero_rule": 2e-3})
    assert {cell.stage for cell in held} == {"test"}
    assert not {cell.seed for cell in held} & {cell.seed for cell in cells}


def test_a_learning_rate_is_of_every_method_or_of_one() -> None:
    args = options(["--suite", "real-shop", "--methods", "grpo", "hero_rule", "--lr", "1e-3", "grpo=4e-4"])
    assert given_rates(args) == {"grpo": 4e-4, "hero_rule": 1e-3}
    args = options(["--suite", "real-shop", "--methods", "grpo", "hero_rule", "--lr", "grpo=4e-4"])
    assert given_rates(args) == {"grpo": 4e-4, "hero_rule": SUITES["real-shop"].values["model"]["lr"]}


def test_base_policies_are_a_factor_of_the_grid() -> None:
    args = options(["--methods", "base", "grpo", "--policies", "a", "b", "--seeds", "0", "1", "2"])
    cells = main_cells(args, dict.fromkeys(args.methods, 1e-3))
    assert len(cells) == 2 * 2 * 3
    assert {cell.base for cell in cells} == {"a", "b"}


def parsed(cell: Cell, tmp_path: Path, more: Sequence[str] = ()) -> Any:
    """Module and data module of a cell, without weights."""
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(cell.overlay(tmp_path / "run")))
    arguments = cell.arguments(tmp_path)[1:]
    return instantiate([*arguments, "--trainer.accelerator=cpu", "--trainer.devices=1", *more])


CELLS = [
    (suite.name, method)
    for suite in SUITES.values()
    for method in available(suite, ["http://localhost:1/v1", "model"])
    if (ROOT / suite.config).is_file()
    and suite.name in ("pocket-webshop", "pocket-retail", "real-shop", "real-webshop", "real-textworld", "retail")
]


@pytest.mark.parametrize(("suite", "method"), CELLS, ids=lambda value: value)
def test_every_method_of_every_suite_is_a_configuration(suite: str, method: str, tmp_path: Path) -> None:
    cell = Cell(suite, method, "somewhere", 3e-4, 4, (10, 20), "validate", 6, ("http://localhost:1/v1", "model"))
    cli = parsed(cell, tmp_path)
    held_out = next(one for one in cli.trainer.callbacks if type(one).__name__ == "HeldOut")
    assert (held_out.at_turns, held_out.stage, held_out.episodes) == ([10, 20], "validate", 6)
    assert (held_out.method, held_out.block) == (f"{method} at 0.0003", "somewhere")
    assert (cli.model.optimization.lr, cli.datamodule.seed, cli.config.turn_budget.max_turns) == (3e-4, 4, 20)
    cli.model.objective.check(cli.datamodule.group_size)  # as the start of a run does
    cli.model._check_staleness(cli.model.updates_per_batch - 1, method)
    episodes = cli.datamodule.tasks_per_step * cli.datamodule.group_size
    plain = SUITES[suite].values["data"]
    assert episodes == plain["tasks_per_step"] * plain["group_size"], "every method plays as many episodes per step"
    if METHODS[method].follows_rules:
        assert type(cli.model.objective.reflector).__name__ == SUITES[suite].rules


def test_the_two_reflectors_of_textworld_are_arms_of_its_suite(tmp_path: Path) -> None:
    for method, reflector in (("hero_rule", "TextWorldRules"), ("hero_oracle", "TextWorldOracle")):
        objective = parsed(Cell("real-textworld", method, "somewhere", 1e-3, 0, (10,)), tmp_path).model.objective
        assert type(objective.reflector).__name__ == reflector


def test_the_live_variant_of_hero_has_neither_a_frozen_reflector_nor_a_frozen_teacher(tmp_path: Path) -> None:
    cell = Cell("pocket-webshop", "hero_live", "hero_pl:pocket-shop", 1e-3, 0, (10,))
    objective = parsed(cell, tmp_path).model.objective
    assert objective.reflector.weights == "live"
    assert objective.reflector.mode == "continue"
    assert type(objective.weights).__name__ == "LiveWeights"


def test_controls_of_a_suite_without_rules_shuffle_its_own_reflector() -> None:
    reflector = settings(SUITES["webshop"], "shuffled")["model.objective.init_args.reflector"]
    assert reflector["class_path"] == "ShuffledReflector"
    assert reflector["init_args"]["inner"] == SUITES["webshop"].values["model"]["objective"]["init_args"]["reflector"]


def test_any_overlay_is_a_method_by_its_file_name(tmp_path: Path) -> None:
    args = options(["--methods", "forward_kl", "dapo", "--seeds", "0"])
    cell = main_cells(args, dict.fromkeys(args.methods, 1e-3))[0]
    assert type(parsed(cell, tmp_path).model.objective.divergence).__name__ == "ForwardKL"
    assert "model.objective.init_args.reflector" not in settings(SUITES["webshop"], "rule_reflector")  # it has no rules
    shuffled = settings(SUITES["pocket-retail"], "shuffled_turns")["model.objective.init_args.reflector"]["init_args"]
    assert shuffled == {"inner": {"class_path": "RetailRules"}, "mode": "turns", "seed": 0}
    expert = settings(SUITES["pocket-retail"], "smrc_sd")["model.objective.init_args.teacher.init_args.expert"]
    assert expert == SUITES["pocket-retail"].expert
    for name in ("random_tokens", "reverse_kl", "mixed", "hero_rule"):  # one wording for all that read hints
        template = settings(SUITES["real-shop"], name)["model.objective.init_args.teacher.init_args.template"]
        assert template == "reply_exactly", name
    assert method_of("dapo").grouped
    assert not method_of("forward_kl").grouped


def test_an_arm_that_hides_diagnoses_does_not_choose_its_wording_by_them() -> None:
    for method in ("feedback_only", "reflection_only", "shuffled_without_feedback"):
        for suite, template in (("webshop", "short"), ("pocket-retail", "hero_pl:pocket/hint.jinja")):
            chosen = settings(SUITES[suite], method)["model.objective.init_args.teacher.init_args.template"]
            assert chosen == template


@pytest.mark.parametrize("method", ["full_demo", "full_demo_buffer", "full_demo_oracle", "full_demo_matched"])
def test_only_the_pocket_shop_shows_demonstrations_in_the_words_of_its_tokenizer(method: str, tmp_path: Path) -> None:
    for suite, path in (
        ("pocket-webshop", "hero_pl:pocket/demonstration.jinja"),
        ("pocket-retail", None),
        ("webshop", None),
    ):
        teacher = parsed(Cell(suite, method, "somewhere", 1e-3, 0, (10,)), tmp_path).model.objective.teacher
        assert teacher.template is compile_template(read_template(path, "demonstration.jinja")), suite


def test_a_dry_run_shows_one_command_per_cell_and_runs_none_and_a_finished_run_is_collected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = [
        "--suite",
        "retail",
        "--methods",
        "base",
        "grpo",
        "rloo",
        "--seeds",
        "0",
        "--dry-run",
        "--out",
        str(tmp_path / "x"),
    ]
    monkeypatch.setattr("sys.argv", ["turn_budget.py", *words])
    turn_budget.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("hero_pl fit --resume auto --config ") for line in lines)
    overlays = [Path(line.split()[-1]) for line in lines]
    assert all(path.is_file() for path in overlays)
    run = overlays[1].parent / "version_0"
    run.mkdir()
    (run / "summary.json").write_text('{"curve": {"0": {"turns_used": 0, "success": 0.5}}}')
    words[words.index("--dry-run")] = "--collect"
    monkeypatch.setattr("sys.argv", ["turn_budget.py", *words, "--out", str(tmp_path / "x")])
    turn_budget.main()
    assert "1 of 3 cells are done" in capsys.readouterr().out
    rows = read_rows(tmp_path / "x" / "results.csv")
    assert [row["status"] for row in rows if row["budget"] == "0"] == ["not run", "not run", "done"]


def test_a_dry_run_with_tuning_prints_the_cells_that_collect_will_look_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["--suite", "retail", "--methods", "grpo", "--seeds", "0", "--tune", "--rates", "1e-5", "2e-5"]
    words += ["--budgets", "100", "--out", str(tmp_path)]

    def lines(kind: str) -> list[str]:
        monkeypatch.setattr("sys.argv", ["turn_budget.py", *words, kind])
        turn_budget.main()
        return capsys.readouterr().out.splitlines()

    def play(line: str, success: float) -> None:
        run = Path(line.split()[-1]).parent / "version_0"
        run.mkdir()
        point = {"turns_used": 100, "success": success, "reward": success, "turns": 5}
        (run / "summary.json").write_text(json.dumps({"curve": {"100": point}}))

    for kind in ("--dry-run", "--collect"):
        with pytest.raises(SystemExit, match=r"2 of 2 tuning cells have not ended"):
            lines(kind)
    first = [line for line in capsys.readouterr().out.splitlines() if line.startswith("hero_pl")]
    assert len(first) == 2
    play(first[0], 0.2)
    with pytest.raises(SystemExit, match=r"1 of 2 tuning cells have not ended"):
        lines("--collect")
    capsys.readouterr()
    play(first[1], 0.3)
    with pytest.raises(SystemExit, match=r"none of the 1 cells of this grid has ended there"):
        lines("--collect")
    capsys.readouterr()
    test = lines("--dry-run")
    assert len(test) == 1
    assert "lr2e-05" in test[0]
    play(test[0], 0.4)
    assert "1 of 1 cells are done" in "\n".join(lines("--collect"))


def test_a_grid_of_two_cells_writes_results_tables_and_curves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--methods", "base", "hero_rule", "--seeds", "0", "--budgets", "10", "--episodes", "4", "--parallel", "1"]
    words += ["--policies", "hero_pl:pocket-shop"]
    monkeypatch.setattr("sys.argv", ["turn_budget.py", *words, "--out", str(tmp_path)])
    turn_budget.main()
    assert {"results.csv", "table.md", "curves.png", "cells"} <= {path.name for path in tmp_path.iterdir()}
    assert "2 of 2 cells are done" in capsys.readouterr().out
    turn_budget.main()
    assert capsys.readouterr().out.count("done before") == 2


def test_only_the_base_policy_is_not_trained() -> None:
    assert [name for name, method in METHODS.items() if method.title.endswith("not trained")] == [BASE]


def test_rates_are_chosen_in_another_world_than_that_of_the_test(tmp_path: Path) -> None:
    for suite, world in (("pocket-webshop", {"catalog_seed": 1}), ("pocket-retail", {"data_seed": 1})):
        plain = SUITES[suite].values["data"].get("env_args", {})
        for stage, expected in (("validate", {**plain, **world}), ("test", plain)):
            cell = Cell(suite, "grpo", "somewhere", 1e-3, 0, (10,), stage)
            assert parsed(cell, tmp_path).datamodule.env_args == expected, (suite, stage)
            more = replace(cell, more=(("data.env_args.max_steps", 9),))
            assert more.overlay(tmp_path)["data"]["env_args"] == {**expected, "max_steps": 9}, (suite, stage)


def test_some_methods_can_be_trained_further_than_the_others() -> None:
    words = ["--methods", "base", "grpo", "rloo", "--seeds", "0", "--budgets", "10", "20"]
    args = options([*words, "--long-methods", "grpo", "--long-budgets", "40"])
    cells = main_cells(args, dict.fromkeys(args.methods, 1e-3))
    assert {cell.method: cell.budgets for cell in cells} == {"base": (10, 20), "grpo": (10, 20, 40), "rloo": (10, 20)}
    for more in (["--long-methods", "grpo"], ["--long-methods", "hero_ema", "--long-budgets", "40"]):
        with pytest.raises(SystemExit):
            options([*words, *more])


def test_the_ceiling_is_taught_by_the_expert_of_the_suite(tmp_path: Path) -> None:
    for suite, expert in (("pocket-webshop", "ShopExpert"), ("pocket-retail", "RetailDemonstrations")):
        cli = parsed(Cell(suite, "supervised", "somewhere", 1e-3, 0, (10,)), tmp_path)
        assert type(cli.datamodule.demonstrations).__name__ == expert
        assert getattr(cli.datamodule.demonstrations, "clean", True)
        assert type(cli.model.objective).__name__ == "SFT"
    with pytest.raises(SystemExit):
        options(["--suite", "webshop", "--methods", "supervised", "--dry-run"])


def test_settings_over_every_cell_are_part_of_what_a_cell_is(tmp_path: Path) -> None:
    words = ["--methods", "grpo", "--seeds", "0", "--policies", "somewhere"]
    (plain,) = main_cells(options(words), {"grpo": 1e-3})
    (changed,) = main_cells(options([*words, "--set", "model.schedule=linear", "model.total_steps=7"]), {"grpo": 1e-3})
    assert "more" not in plain.identity(), "cells that were run without keep their names"
    assert plain.folder(tmp_path) != changed.folder(tmp_path)
    model = parsed(changed, tmp_path).model
    assert (model.optimization.schedule, model.optimization.total_steps) == ("linear", 7)
    with pytest.raises(SystemExit):
        options([*words, "--set", "model.schedule"])


def test_a_setting_of_one_grid_changes_no_method_and_no_name(tmp_path: Path) -> None:
    key = "model.objective.init_args.weights.init_args.sync_every"
    cell = Cell("real-shop", "hero_periodic", "somewhere", 1e-3, 0, (10,), more=((key, 2),))
    before = cell.folder(tmp_path)
    assert cell.overlay(tmp_path)["model"]["objective"]["init_args"]["weights"]["init_args"] == {"sync_every": 2}
    assert cell.folder(tmp_path) == before
    assert METHODS["hero_periodic"].settings["model.objective.init_args.weights"]["init_args"] == {"sync_every": 5}


def test_a_grid_without_results_does_not_end_with_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ["--methods", "grpo", "--seeds", "0", "--policies", "somewhere", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["turn_budget.py", *words])
    monkeypatch.setattr(turn_budget, "run_cells", lambda *args: None)
    with pytest.raises(SystemExit, match=r"1 of 1 cells have no result"):
        turn_budget.main()
