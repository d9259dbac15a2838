"""Differences between methods have intervals, and small ones are reported as not resolved."""

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from hero_pl.errors import ConfigError, HeroError
from hero_pl.runs.compare import Comparison, compare_runs, paired_differences
from hero_pl.runs.tables import print_comparison, to_markdown


def run(
    root: Path, method: str, seed: int, successes: dict[str, list[bool]], budget: int = 500, **change: object
) -> Path:
    folder = root / f"{method}-{seed}-{budget}"
    folder.mkdir()
    rows = [
        {"stage": "test", "turns_budget": budget, "seed": seed, "method": method, "task_id": task}
        | {"success": success, "reward": 1.0 if success else 0.25, "turns": 3 if success else 5}
        | change
        for task, episodes in successes.items()
        for success in episodes
    ]
    (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def shown(comparisons: list[Comparison]) -> str:
    out = io.StringIO()
    print_comparison(comparisons, Console(file=out, width=100))
    return out.getvalue()


def tasks(successes: int, count: int = 10) -> dict[str, list[bool]]:
    return {f"task{i}": [i < successes] for i in range(count)}


def test_the_effect_is_the_mean_over_seeds_of_the_mean_over_tasks(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, "base", 0, {"a": [False, True], "b": [False]}),
        run(tmp_path, "base", 1, {"a": [False]}),
        run(tmp_path, "hero", 0, {"a": [True, True], "b": [False]}),
        run(tmp_path, "hero", 1, {"a": [True]}),
    ]
    (one,) = compare_runs(runs)
    # Seed 0: a rises from 1/2 to 1, b stays: 1/4. Seed 1: a rises from 0 to 1. Mean of 1/4 and 1: 5/8.
    assert one.effect == pytest.approx(0.625)
    assert one.baseline_mean == pytest.approx(0.125)  # (1/4 + 0) / 2
    assert one.method_mean == pytest.approx(0.75)  # (1/2 + 1) / 2
    assert (one.baseline, one.method, one.seeds, one.tasks, one.unpaired) == ("base", "hero", 2, 2, 0)


@pytest.mark.parametrize(("metric", "effect"), [("success", 0.5), ("reward", 0.375), ("turns", -1.0)])
def test_every_metric_can_be_compared(tmp_path: Path, metric: str, effect: float) -> None:
    runs = [run(tmp_path, "a", 0, tasks(2)), run(tmp_path, "b", 0, tasks(7))]
    (one,) = compare_runs(runs, metric=metric)  # type: ignore[arg-type]
    assert one.effect == pytest.approx(effect)


def test_a_clear_effect_is_resolved_and_no_effect_is_called_not_resolved(tmp_path: Path) -> None:
    runs = [run(tmp_path, "base", seed, tasks(2 + seed % 2)) for seed in range(5)]
    runs += [run(tmp_path, "hero", seed, tasks(9)) for seed in range(5)]
    runs += [run(tmp_path, "shuffled", seed, tasks(3 - seed % 2)) for seed in range(5)]
    hero, shuffled = compare_runs(runs)
    assert hero.resolved
    assert hero.verdict == "higher"
    assert 0 < hero.low < hero.effect < hero.high
    assert not shuffled.resolved
    text = to_markdown([hero, shuffled])
    assert "| test | 500 | hero | base | - | 5 | 10 | 0.900 vs 0.240 | +0.660 [" in text
    assert text.count("not resolved") == 1
    assert "seeds:" not in text


@pytest.mark.parametrize(
    ("seeds", "few", "many", "count"), [(1, 0, 1, 1), (1, 0, 10, 10), (3, 0, 10, 10), (4, 1, 1, 1)]
)
def test_where_no_spread_was_seen_nothing_is_resolved(
    tmp_path: Path, seeds: int, few: int, many: int, count: int
) -> None:
    runs = [run(tmp_path, "base", seed, tasks(few, count)) for seed in range(seeds)]
    runs += [run(tmp_path, "hero", seed, tasks(many, count)) for seed in range(seeds)]
    (comparison,) = compare_runs(runs)
    assert (comparison.verdict, comparison.has_interval, comparison.runs_needed) == ("not resolved", False, None)
    text, table = shown([comparison]), to_markdown([comparison])
    assert "no interval" in text
    assert "there is no spread" in " ".join(text.split())
    assert "[no interval] | not resolved | unknown |" in table
    assert "inf" not in text + table
    assert ("One task: the result" in text) == (count == 1)


def test_the_same_runs_give_the_same_interval(tmp_path: Path) -> None:
    runs = [run(tmp_path, "a", 0, tasks(2)), run(tmp_path, "b", 0, tasks(4))]
    assert compare_runs(runs) == compare_runs(runs)


def test_only_equal_budgets_are_compared_but_an_untrained_baseline_with_all(tmp_path: Path) -> None:
    runs = [run(tmp_path, "base", 0, tasks(2), budget=0)]
    runs += [run(tmp_path, "grpo", 0, tasks(3), budget=100), run(tmp_path, "hero", 0, tasks(5), budget=100)]
    runs += [run(tmp_path, "hero", 0, tasks(9), budget=500)]
    against_base = compare_runs(runs)
    assert [(one.method, one.turns_budget) for one in against_base] == [("grpo", 100), ("hero", 100), ("hero", 500)]
    against_grpo = compare_runs(runs, baseline="grpo")
    assert [(one.method, one.turns_budget) for one in against_grpo] == [("hero", 100)]


def test_a_trained_baseline_is_never_replaced_by_its_start(tmp_path: Path) -> None:
    runs = [run(tmp_path, "a", 0, tasks(2), budget=0), run(tmp_path, "a", 0, tasks(9), budget=1013)]
    runs += [run(tmp_path, "b", 0, tasks(2), budget=0), run(tmp_path, "b", 0, tasks(9), budget=1021)]
    assert [(one.turns_budget, one.effect) for one in compare_runs(runs)] == [(0, 0.0)]


def test_results_without_a_partner_are_left_out_and_counted(tmp_path: Path) -> None:
    runs = [run(tmp_path, "a", 0, tasks(0)), run(tmp_path, "b", 0, tasks(4, 12)), run(tmp_path, "b", 1, tasks(1, 3))]
    (one,) = compare_runs(runs)
    assert (one.seeds, one.tasks, one.unpaired) == (1, 10, 5)  # two tasks of seed 0 and three of seed 1
    assert "5 results that only one" in to_markdown([one])
    assert "One seed" in to_markdown([one])
    assert paired_differences({("", 0): {"x": [1.0]}}, {("", 0): {"y": [1.0]}}) == {}


def test_the_table_names_method_verdict_and_the_few_seeds(tmp_path: Path) -> None:
    runs = [run(tmp_path, name, seed, tasks(count)) for name, count in (("a", 2), ("b", 3)) for seed in (0, 1)]
    out = io.StringIO()
    print_comparison(compare_runs(runs), Console(file=out, width=80))
    assert "not resolved" in out.getvalue()
    assert "Fewer than 5 seeds" in out.getvalue()


def test_bug_876_names_from_a_foreign_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    runs = [run(tmp_path, name, 0, tasks(2), user="\x1b[2J") for name in ("a", "b")]
    out = io.StringIO()
    print_comparison(compare_runs(runs), Console(file=out, width=80))
    assert "\x1b" not in out.getvalue()
    assert "\\x1b[2J" in out.getvalue()


def test_long_names_of_methods_stay_whole_in_80_columns(tmp_path: Path) -> None:
    names = [f"self_distillation_with_hindsight_and_{end}" for end in ("base", "true_diagnoses", "shuffled_diagnoses")]
    runs = [
        run(tmp_path, name, seed, tasks(i + 2), user="simulated-by-a-model")
        for i, name in enumerate(names)
        for seed in (0, 1)
    ]
    out = io.StringIO()
    print_comparison(compare_runs(runs), Console(file=out, width=80))
    assert "…" not in out.getvalue()
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    start = next(line.index("against") for line in lines if "against" in line)
    column = "".join(line[start:].split(" ")[0] for line in lines)
    assert names[1] in column
    assert names[2] in column


def test_runs_that_cannot_be_compared_are_refused_with_the_reason(tmp_path: Path) -> None:
    a, b = run(tmp_path, "a", 0, tasks(2)), run(tmp_path, "b", 1, tasks(2))
    with pytest.raises(HeroError, match=r"share no seed .* seed 1 and seed 0"):
        compare_runs([a, b])
    with pytest.raises(HeroError, match="one method only"):
        compare_runs([a])
    with pytest.raises(ConfigError, match=r"There is no run of the baseline 'c'. The methods of these runs are: a, b"):
        compare_runs([a, b], baseline="c")
    with pytest.raises(HeroError, match="No method was evaluated at the same"):
        compare_runs([a, run(tmp_path, "c", 0, tasks(2), budget=7)])
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "eval.jsonl").write_bytes((a / "eval.jsonl").read_bytes())
    with pytest.raises(HeroError, match="both hold 'a', seed 0"):
        compare_runs([a, b, copy])
    with pytest.raises(HeroError, match=r"There is no folder .*gone"):
        compare_runs([tmp_path / "gone"])


def test_bug_714_and_873_a_method_that_is_not_of_interest_does_not_end_a_comparison(tmp_path: Path) -> None:
    runs = [run(tmp_path, "a", 0, tasks(2)), run(tmp_path, "b", 0, tasks(9)), run(tmp_path, "c", 1, tasks(5))]
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "eval.jsonl").write_bytes((runs[2] / "eval.jsonl").read_bytes())  # twice, and without a common seed
    with pytest.raises(HeroError, match=r"both hold 'c'.*--methods"):
        compare_runs([*runs, copy])
    with pytest.raises(HeroError, match=r"share no seed.*--methods"):
        compare_runs(runs)
    expected = compare_runs(runs[:2])
    assert compare_runs([*runs, copy], methods=["a", "b"]) == expected
    assert compare_runs([*runs, copy], baseline="a", methods=["b"]) == expected
    with pytest.raises(ConfigError, match=r"no run of the method 'd'. The methods of these runs are: a, b, c\."):
        compare_runs(runs, methods=["a", "d"])
    with pytest.raises(ConfigError, match=r"no run of the method 'd'. The methods of these runs are: a, b, c\."):
        compare_runs(runs, methods=["d"])
    with pytest.raises(HeroError, match="No runs were given"):
        compare_runs([])
    with pytest.raises(HeroError, match="one method only"):
        compare_runs(runs, methods=["a"])


def test_bug_715_settings_in_which_averaged_runs_differ_are_named(tmp_path: Path) -> None:
    runs = [run(tmp_path, name, seed, tasks(2 + seed)) for name in ("a", "b") for seed in (0, 1)]
    for i, folder in enumerate(runs):
        settings = {"model": {"lr": (1e-3, 1e-3, 1e-3, 5e-3)[i]}, "data": {"seed": i, "limits": {"num_envs": i}}}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (one,) = compare_runs(runs)
    assert one.mixed == ("b: model.lr is 0.001 and 0.005",)  # seeds and the number of environments may differ
    assert "Averaged runs differ: b: model.lr is 0.001 and 0.005." in to_markdown([one])
    for folder, gate in zip(runs[2:], (None, {"class_path": "HighEntropy", "init_args": {}}), strict=True):
        (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"gate": gate, "lr": 1e-3}}))
    (one,) = compare_runs(runs)
    assert one.mixed == ("b: model.gate is None and 'set'",)  # no gate is a setting, too
    (runs[3] / "config.yaml").write_text(yaml.safe_dump({"model": {"lr": 5e-3}}))  # of a version without gates
    apart = run(tmp_path, "b", 2, tasks(4), block="other"), run(tmp_path, "a", 2, tasks(4), block="other")
    (apart[0] / "config.yaml").write_text(yaml.safe_dump({"model": {"lr": 7.0}}))
    assert [one.mixed != () for one in compare_runs([*runs, *apart])] == [True, False]  # each base policy by itself


def test_bug_821_settings_of_evaluations_and_of_the_guard_are_named_too(tmp_path: Path) -> None:
    runs = [run(tmp_path, name, seed, tasks(2 + seed)) for name in ("a", "b") for seed in (0, 1)]
    heats, guards = (1.0, 1.0, 0.0, 1.0), ("off", "warn", "rollback", "warn")
    for folder, heat, guard in zip(runs, heats, guards, strict=True):
        settings = {"data": {"eval_temperature": heat}, "collapse_guard": {"action": guard, "keep_every": len(guard)}}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (one,) = compare_runs(runs)
    guard = "b: collapse_guard.action is 'rollback' and 'warn'"
    assert one.mixed == (guard, "b: data.eval_temperature is 0.0 and 1.0")
    note = "not that of the method alone: data.eval_temperature is 1.0 for a and 0.0 or 1.0 for b."
    assert note in to_markdown([one])
    for folder in runs:
        (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"eval_temperature": 1}}))
    (one,) = compare_runs(runs)
    assert (one.mixed, one.remarks) == ((), ())


@pytest.mark.parametrize(
    ("counts", "note"),
    [((5, 5, 5), "Equal effects of all seeds"), ((5, 6), "Two seeds: their spread is hardly known"), ((5, 6, 7), "")],
)
def test_bug_716_two_seeds_and_equal_effects_have_a_note(tmp_path: Path, counts: tuple[int, ...], note: str) -> None:
    runs = [run(tmp_path, "a", seed, tasks(2)) for seed in range(len(counts))]
    runs += [run(tmp_path, "b", seed, tasks(count)) for seed, count in enumerate(counts)]
    text = to_markdown(compare_runs(runs))
    notes = [line for line in text.splitlines() if line.startswith(("Equal", "Two"))]
    assert [line.startswith(note) for line in notes] == [True] * bool(note)


@pytest.mark.parametrize("change", [{"success": 1}, {"seed": True}, {"task_id": 3}, {"stage": None}])
def test_a_line_of_another_kind_is_named(tmp_path: Path, change: dict) -> None:
    path = run(tmp_path, "a", 0, tasks(2))
    rows = [json.loads(line) for line in (path / "eval.jsonl").read_text().splitlines()]
    rows[2] |= change
    (path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(HeroError, match=rf"line 3: {next(iter(change))} is "):
        compare_runs([path])


def test_a_grid_folder_is_searched_and_a_budget_picked(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    for budget in (250, 500):
        for seed in range(2):
            run(tmp_path / "cells", "base", seed, tasks(2), budget)
            run(tmp_path / "cells", "hero", seed, tasks(9), budget)
    assert [one.turns_budget for one in compare_runs([tmp_path])] == [250, 500]
    (one,) = compare_runs([tmp_path], budget=500)
    assert (one.turns_budget, one.seeds) == (500, 2)
    with pytest.raises(ConfigError, match=r"budget=7: .* evaluated at 250 turns \(test\), 500 turns \(test\)"):
        compare_runs([tmp_path], budget=7)
    with pytest.raises(ConfigError, match="stage=validate"):
        compare_runs([tmp_path], stage="validate")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HeroError, match=r"no eval\.jsonl"):
        compare_runs([tmp_path / "empty"])


def test_bug_827_base_policies_are_compared_each_by_itself_and_none_disappears(tmp_path: Path) -> None:
    runs = []
    for block, hero in (("one", 9), ("two", 3)):
        folder = tmp_path / block
        folder.mkdir()
        for seed in (0, 1):
            runs += [
                run(folder, "base", seed, tasks(2), block=block),
                run(folder, "hero", seed, tasks(hero), block=block),
            ]
    runs.append(run(tmp_path, "hero", 7, tasks(9), block="three"))  # the baseline was not run there
    comparisons = compare_runs(runs)
    assert [(one.block, one.seeds, round(one.effect, 3)) for one in comparisons] == [("one", 2, 0.7), ("two", 2, 0.1)]
    assert "| hero | base | one | 2 |" in to_markdown(comparisons)
    assert "block 'three': only hero has results there." in to_markdown(comparisons)
    (tmp_path / "again").mkdir()
    run(tmp_path / "again", "hero", 0, tasks(9), block="one")
    with pytest.raises(HeroError, match="both hold 'hero', seed 0 of one"):
        compare_runs([tmp_path])


def test_scores_with_different_users_are_refused(tmp_path: Path) -> None:
    a = run(tmp_path, "a", 0, tasks(2), user="scripted-full")
    b = run(tmp_path, "b", 0, tasks(7), user="llm:some-model")
    with pytest.raises(HeroError, match="'b' was evaluated with the user llm:some-model, 'a' with scripted-full"):
        compare_runs([a, b])
    with pytest.raises(HeroError, match="with the user none, 'a' with scripted-full"):
        compare_runs([a, run(tmp_path, "c", 0, tasks(7))])


def test_each_kind_of_user_gets_a_row_of_its_own(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, method, seed, tasks(wins), user=user)
        for method, seed, wins, user in (
            ("a", 0, 2, "scripted-full"),
            ("b", 0, 5, "scripted-full"),
            ("a", 1, 1, "llm:m"),
            ("b", 1, 9, "llm:m"),
        )
    ]
    comparisons = {one.user: one for one in compare_runs(runs)}
    # Mixed, the effect would be (0.3 + 0.8) / 2.
    assert {user: round(one.effect, 6) for user, one in comparisons.items()} == {"scripted-full": 0.3, "llm:m": 0.8}
    for text in (to_markdown(list(comparisons.values())), shown(list(comparisons.values()))):
        assert "scripted-full" in text
        assert "llm:m" in text


def test_the_floor_of_the_compared_tasks_is_in_both_tables(tmp_path: Path) -> None:
    for method, wins in (("a", 2), ("b", 7)):
        path = run(tmp_path, method, 0, tasks(wins))
        rows = [json.loads(line) for line in (path / "eval.jsonl").read_text().splitlines()]
        for number, row in enumerate(rows):
            row["do_nothing_succeeds"] = number < 4
        (path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    comparisons = compare_runs(sorted(tmp_path.iterdir()))
    assert comparisons[0].floor == pytest.approx(0.4)
    assert "| 0.400 |" in to_markdown(comparisons)
    assert "(nothing: 0.400)" in shown(comparisons)


def test_broken_episodes_are_no_failures_and_are_counted(tmp_path: Path) -> None:
    a, b = run(tmp_path, "a", 0, tasks(2)), run(tmp_path, "b", 0, tasks(7))
    rows = [json.loads(line) for line in (b / "eval.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["evaluable"] = number not in (8, 9)  # two of the three failures of b
    (b / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (one,) = compare_runs([a, b])
    assert (one.broken, one.tasks, one.method_mean) == (2, 8, pytest.approx(7 / 8))
    assert "2 episodes that ended with an error of the environment or its user were left out." in shown([one])
    with pytest.raises(HeroError, match="All 10 episodes of the runs ended with an error"):
        compare_runs([run(tmp_path, "c", 0, tasks(0), evaluable=False)])


def test_bug_820_an_episode_that_broke_is_counted_once(tmp_path: Path) -> None:
    for block, broken in (("one", 3), ("two", 0)):
        folder = tmp_path / block
        folder.mkdir()
        base = run(folder, "base", 0, tasks(2), budget=0, block=block)
        lines = (base / "eval.jsonl").read_text().splitlines()
        rows = [{**json.loads(line), "evaluable": i >= broken} for i, line in enumerate(lines)]
        (base / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for method, budget in (("a", 100), ("a", 200), ("b", 100)):
            run(folder, method, 0, tasks(7), budget=budget, block=block)
    comparisons = compare_runs([tmp_path], baseline="base")
    assert {(one.block, one.broken, one.unpaired) for one in comparisons} == {("one", 3, 3), ("two", 0, 0)}
    text = to_markdown(comparisons)
    assert "3 episodes that ended with an error" in text
    assert "9 results that only one" in text  # three of each method and budget


def test_bug_827_a_method_whose_episodes_all_broke_is_named_as_such(tmp_path: Path) -> None:
    a, c = run(tmp_path, "a", 0, tasks(2)), run(tmp_path, "c", 0, tasks(7))
    b = run(tmp_path, "b", 0, tasks(0), evaluable=False)
    for given in ({}, {"baseline": "b"}, {"methods": ["b", "a"]}, {"baseline": "a", "methods": ["b"]}):
        with pytest.raises(HeroError, match=r"All 10 episodes of 'b' at 500 turns \(test\) ended with an error"):
            compare_runs([a, b, c], **given)
    assert len(compare_runs([a, b, c], methods=["a", "c"])) == 1
    early = run(tmp_path, "b", 0, tasks(5), budget=7), run(tmp_path, "a", 0, tasks(5), budget=7)
    (one,) = compare_runs([a, b, *early])  # another evaluation of it can be compared
    assert (one.turns_budget, one.remarks[0][:42]) == (7, "All 10 episodes of 'b' at 500 turns (test)")
    with pytest.raises(HeroError, match="All 10 episodes of 'b' at 500"):
        compare_runs([a, b, *early], budget=500)
    start = run(tmp_path, "b", 0, tasks(5), budget=0)  # it does not stand in for the evaluation that broke
    with pytest.raises(HeroError, match="All 10 episodes of 'b' at 500"):
        compare_runs([start, b, a])
