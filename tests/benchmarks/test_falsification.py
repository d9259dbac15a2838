"""The falsification report: what is measured, on which turns, with which interval."""

import json
import math
from pathlib import Path

import pytest
from falsification import TRUE, TurnScore, after, arms_of, before, bootstrap_mean, difference, interval, measure, page

from hero_pl.cli.lightning import instantiate
from hero_pl.errors import ConfigError
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn

ROOT = Path(__file__).resolve().parents[2]
SCORES = [
    TurnScore(0, True, 0.1, -2.0, True),
    TurnScore(0, False, 0.3, 1.0, False),
    TurnScore(1, True, 0.2, -4.0, False),
]


def test_each_measure_is_about_its_own_turns() -> None:
    assert measure(SCORES, "wrong") == [(0, -2.0), (1, -4.0)]
    assert measure(SCORES, "right") == [(0, 1.0)]
    assert measure(SCORES, "divergence") == [(0, 0.1), (0, 0.3), (1, 0.2)]
    assert measure(SCORES, "changed") == [(0, 1.0), (0, 0.0), (1, 0.0)]


def test_the_interval_draws_whole_episodes() -> None:
    # Episode 0 holds 0, 0, 0, episode 1 holds 1: means 0, 1/4 (one of each) and 1 with probability 1/4, 1/2, 1/4.
    result = bootstrap_mean([(0, 0.0), (0, 0.0), (0, 0.0), (1, 1.0)])
    assert (result["mean"], result["low"], result["high"]) == (0.25, 0.0, 1.0)
    assert math.isnan(bootstrap_mean([])["mean"])


def test_a_difference_is_paired_and_says_when_it_is_not_resolved() -> None:
    lower = [
        TurnScore(one.episode, one.wrong, one.divergence, one.endorsement - 1.0 - one.episode, one.changed)
        for one in SCORES
    ]
    result = difference(SCORES, lower, "wrong")
    assert (result["mean"], result["low"], result["high"], result["verdict"]) == (1.5, 1.0, 2.0, "higher")
    assert difference(SCORES, SCORES, "divergence")["verdict"] == "not resolved"


def test_differences_that_are_all_alike_have_no_interval() -> None:
    lower = [TurnScore(one.episode, one.wrong, one.divergence, one.endorsement - 1.0, one.changed) for one in SCORES]
    result = difference(SCORES, lower, "wrong")
    assert (interval(result, "+"), result["verdict"]) == ("+1.000 [no interval]", "not resolved")


def test_the_arms_differ_in_their_words_alone() -> None:
    turns = tuple(Turn(i, (), (1,), (0.0,), "a", "a", "o", "user") for i in (1, 2))
    played = [Trajectory(f"t{i}", "e", i, i, "", (), "hi", turns, 0.0, StopReason.TERMINATED) for i in range(2)]
    target = {"name": "click", "arguments": {"element": "x"}}
    true = [Reflection((Diagnosis(f"text {i} of an episode", "low", target), None), "ok") for i in range(2)]
    arms = arms_of(played, true, 0, "Fine.")
    for reflections in arms.values():
        assert [[bool(d) for d in one.diagnoses] for one in reflections] == [[True, False], [True, False]]
        assert all(one.diagnoses[0].confidence == "low" for one in reflections if one.diagnoses[0])
    texts = {name: [one.diagnoses[0].text for one in arm if one.diagnoses[0]] for name, arm in arms.items()}
    assert texts["shuffled"] == texts[TRUE][::-1]
    assert texts["true without target"] == texts[TRUE]
    assert texts["constant"] == ["Fine.", "Fine."]
    assert all(one.diagnoses[0].next_action_target is None for one in arms["true without target"] if one.diagnoses[0])


def test_a_report_before_training_compares_every_arm_on_the_same_turns(tiny_config: dict[str, object]) -> None:
    policy = "--model.policy.init_args"
    scratch = [f"{policy}.pretrained=null", f"{policy}.tokenizer=hero_pl:pocket-shop"]
    configs = [
        f"--config={ROOT / name}" for name in ("configs/quickstart.yaml", "configs/baselines/rule_reflector.yaml")
    ]
    cli = instantiate([*configs, *scratch, f"{policy}.config={json.dumps(tiny_config)}", "--trainer.logger=false"])
    result = before(cli, 6, "validate", ShopRules(), 0, "Fine.")
    assert result["turns_compared"] <= result["turns"]
    assert result["turns_wrong"] > 0  # random weights
    assert set(result["arms"]) == {TRUE, "true without target", "shuffled", "generic", "constant"}
    assert all(arm["divergence"]["mean"] > 0 for arm in result["arms"].values())
    assert set(result["against_true"]) == {"shuffled", "generic", "constant"}
    assert "according to ShopRules" in page({"before": result})


def grid(folder: Path, **successes: int) -> Path:
    for method, count in successes.items():
        for seed in range(3):
            run = folder / "cells" / f"{method}-seed{seed}"
            run.mkdir(parents=True)
            rows = [
                {"stage": "test", "turns_budget": 250, "seed": seed, "method": method, "task_id": f"t{i}"}
                | {"success": i < count, "reward": 0.0, "turns": 5}
                for i in range(10)
            ]
            (run / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_triangle_is_read_from_a_grid(tmp_path: Path) -> None:
    result = after(
        grid(tmp_path, hero_rule=9, shuffled=2, feedback_only=2), ["hero_rule", "shuffled", "feedback_only"], None
    )
    verdicts = {(pair["method"], pair["against"]): pair["verdict"] for pair in result["pairs"]}
    assert verdicts == {
        ("hero_rule", "shuffled"): "higher",
        ("hero_rule", "feedback_only"): "higher",
        ("shuffled", "feedback_only"): "not resolved",
    }
    assert "| 250 | - | shuffled | feedback_only | 3 | 0.200 vs 0.200 |" in page({"after": result})


def test_a_grid_without_the_corners_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no two of hero_rule, shuffled can be compared"):
        after(grid(tmp_path, grpo=1, rloo=2), ["hero_rule", "shuffled"], None)


def test_a_missing_corner_is_named(tmp_path: Path) -> None:
    result = after(grid(tmp_path, hero_rule=9, shuffled=2), ["hero_rule", "hero_self", "shuffled"], None)
    assert any("hero_self" in reason for reason in result["left_out"])
