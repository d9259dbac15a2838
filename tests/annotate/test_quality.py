import json
import math
from typing import Any

import pytest

from hero_pl.annotate.files import tables
from hero_pl.annotate.quality import (
    QUESTIONS,
    calibration,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    majority,
    precision_recall,
    quality_report,
    sample_turns,
)
from hero_pl.errors import ConfigError
from hero_pl.types import Diagnosis, Reflection, StopReason, Trajectory, Turn


def episode(turns: int, task: str) -> Trajectory:
    played = tuple(Turn(i, (), (1,), (0.0,), f"a{i}", f"a{i}", f"o{i}", "tool") for i in range(1, turns + 1))
    return Trajectory(task, "shop", 0, 0, "", (), "hello", played, 0.5, StopReason.TERMINATED)


def reflection(*texts: str | None) -> Reflection:
    return Reflection(tuple(Diagnosis(text, "high") if text else None for text in texts), "ok")


EPISODES = [episode(3, "t1"), episode(2, "t2")]
ARMS = {
    "true": [reflection("t1.1", "t1.2", None), reflection("t2.1", "t2.2")],
    "shuffled": [reflection("s1.1", "s1.2", "s1.3"), reflection("s2.1", "s2.2")],
}


def test_cohen_kappa_by_hand() -> None:
    # yes/yes 20, yes/no 10, no/yes 5, no/no 15: p_o = 35/50; p_e = (30*25 + 20*25)/2500 = 1/2; (0.7 - 0.5)/0.5 = 0.4
    first = [True] * 30 + [False] * 20
    second = [True] * 20 + [False] * 10 + [True] * 5 + [False] * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa([*first, None, True], [*second, True, None]) == pytest.approx(0.4)


def test_cohen_kappa_at_its_ends() -> None:
    assert cohen_kappa([1, 2, 3], [1, 2, 3]) == 1.0
    assert cohen_kappa([1, 2], [2, 1]) == -1.0
    assert math.isnan(cohen_kappa([1, 1], [1, 1]))
    assert math.isnan(cohen_kappa([None], [1]))
    with pytest.raises(ConfigError, match="2 and 1 answers"):
        cohen_kappa([1, 2], [1])


def test_fleiss_kappa_by_hand() -> None:
    # P_i = 1, 1/3, 1/3, mean 5/9. Shares: yes 5/9, no 4/9: P_e = 41/81. (45/81 - 41/81) / (40/81) = 1/10
    assert fleiss_kappa([["y", "y", "y"], ["y", "n", "n"], ["n", "n", "y"]]) == pytest.approx(0.1)
    assert fleiss_kappa([["y", "y"], ["n", "n"]]) == 1.0


def test_fleiss_kappa_wants_complete_answers() -> None:
    for items in ([[1, None]], [[1, 1], [1]], [[1]]):
        with pytest.raises(ConfigError, match="krippendorff_alpha"):
            fleiss_kappa(items)
    assert math.isnan(fleiss_kappa([]))
    assert math.isnan(fleiss_kappa([[1, 1], [1, 1]]))


def test_krippendorff_alpha_by_hand() -> None:
    # Answers y y | y n | n n: off-diagonal coincidences 2, by chance (36 - 18)/5 = 3.6: 1 - 2/3.6 = 4/9
    assert krippendorff_alpha([["y", "y"], ["y", "n"], ["n", "n"]]) == pytest.approx(4 / 9)
    # Of y y n (weight 1/2) and n n, with an item of one answer left out: 4/2 = 2 against (25 - 13)/4 = 3: 1/3
    assert krippendorff_alpha([["y", "y", "n"], ["n", None, "n"], [None, "y", None]]) == pytest.approx(1 / 3)


def test_krippendorff_alpha_of_the_published_example() -> None:
    # Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), part C: four observers, open answers, 0.743.
    observers = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    units = zip(*[[None if code == "." else code for code in row.split()] for row in observers], strict=True)
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_krippendorff_alpha_at_its_ends() -> None:
    assert krippendorff_alpha([[1, 1], [2, 2]]) == 1.0
    assert math.isnan(krippendorff_alpha([]))
    assert math.isnan(krippendorff_alpha([[1, 1], [1, 1]]))
    assert math.isnan(krippendorff_alpha([[1, None]]))


def test_a_majority_needs_more_than_any_other() -> None:
    assert majority([True, False, True, None]) is True
    assert majority([False, False, True]) is False
    assert majority([True, False]) is None
    assert majority([None, None]) is None


def test_precision_and_recall_by_hand() -> None:
    predicted = [True, True, True, False, False, None, True]
    was = [True, True, False, True, False, True, None]
    assert precision_recall(predicted, was) == (2 / 3, 2 / 3)
    assert precision_recall([True, False, False], [True, True, True]) == (1.0, 1 / 3)
    assert all(map(math.isnan, precision_recall([False], [False])))


def test_calibration_by_hand() -> None:
    levels = calibration(
        ["high", "high", "low", "low", "low"], [True, False, True, True, None], [True, False, True, False, True]
    )
    assert levels["high"] == (1.0, 2)
    assert levels["low"] == (0.5, 2)
    assert math.isnan(levels["medium"][0])


def test_the_same_turns_are_drawn_for_every_arm_without_naming_it() -> None:
    rows, key = sample_turns(EPISODES, ARMS, turns=3, seed=1)
    assert len(rows) == len(key) == 6
    by_arm = {arm: sorted((row["task_id"], row["turn"]) for row in rows if key[row["id"]] == arm) for arm in ARMS}
    assert by_arm["true"] == by_arm["shuffled"]
    for row in rows:
        assert row["diagnosis"] == f"{key[row['id']][0]}{row['task_id'][1]}.{row['turn']}"
        assert row["labels"] == dict.fromkeys(QUESTIONS)
        assert (row["action"], row["reply"]) == (f"a{row['turn']}", f"o{row['turn']}")
        assert row["task"] == "hello"
        assert [turn["reply"] for turn in row["history"]] == [f"o{i}" for i in range(1, row["turn"])]
        shown = json.dumps({name: value for name, value in row.items() if name != "diagnosis"})
        assert not any(arm in shown for arm in ARMS)


def test_the_order_of_the_rows_does_not_tell_the_arm() -> None:
    orders = set()
    for seed in range(8):
        rows, key = sample_turns(EPISODES, ARMS, turns=4, seed=seed)
        orders.add(tuple(key[row["id"]] for row in rows))
    assert len(orders) > 4


def test_turns_without_a_diagnosis_in_some_arm_are_never_drawn() -> None:
    rows, _ = sample_turns(EPISODES, ARMS, turns=99)
    assert sorted({(row["task_id"], row["turn"]) for row in rows}) == [("t1", 1), ("t1", 2), ("t2", 1), ("t2", 2)]


def test_the_seed_fixes_the_sample() -> None:
    assert sample_turns(EPISODES, ARMS, 2, seed=4) == sample_turns(EPISODES, ARMS, 2, seed=4)
    assert len({json.dumps(sample_turns(EPISODES, ARMS, 2, seed=i)[0]) for i in range(5)}) == 5


def test_an_arm_on_other_episodes_is_refused() -> None:
    with pytest.raises(ConfigError, match="Arm 'x' has reflections on other episodes"):
        sample_turns(EPISODES, {"x": ARMS["true"][::-1]}, 1)
    with pytest.raises(ConfigError, match="turns=0"):
        sample_turns(EPISODES, ARMS, 0)


def annotate(rows: list[dict[str, Any]], key: dict[str, str], wrong: set[str]) -> list[dict[str, Any]]:
    """Turn 1 was an error. True diagnoses say so, shuffled ones say the opposite; ``wrong`` rows are mislabeled."""
    labeled = []
    for row in rows:
        error = row["turn"] == 1
        says = error if key[row["id"]] == "true" else not error
        grounded = (key[row["id"]] == "true") != (row["id"] in wrong)
        labels = {**row["labels"], "turn_was_error": error, "says_error": says, "grounded": grounded}
        labeled.append({**row, "labels": labels})
    return labeled


def test_the_report_sets_true_diagnoses_against_the_shuffled_floor() -> None:
    rows, key = sample_turns(EPISODES, ARMS, turns=4)
    report = quality_report([annotate(rows, key, set()), annotate(rows[::-1], key, {rows[0]["id"]})], key)
    assert report["true"]["rows"] == report["shuffled"]["rows"] == 4
    assert (report["true"]["error/precision"], report["true"]["error/recall"]) == (1.0, 1.0)
    assert (report["shuffled"]["error/precision"], report["shuffled"]["error/recall"]) == (0.0, 0.0)
    assert (report["true"]["calibration/high"], report["shuffled"]["calibration/high"]) == (1.0, 0.0)
    assert (report["true"]["grounded"], report["shuffled"]["grounded"]) == (1.0, 0.0)
    assert math.isnan(report["true"]["leaks_future"])
    # Of eight rows the raters differ on one: p_o = 7/8, p_e = (4*n + 4*(8-n))/64 = 1/2, kappa = 3/4
    assert report["agreement"]["grounded/cohen"] == pytest.approx(0.75)
    assert report["agreement"]["grounded/tied"] == 1
    assert report["agreement"]["says_error/cohen"] == 1.0


def test_a_gold_row_without_an_answer_leaves_the_majority_as_it_is() -> None:
    rated = {"id": "a", "confidence": "high", "labels": {"turn_was_error": True, "says_error": True}}
    gold = {"id": "a", "labels": {"turn_was_error": None, "says_error": False}}
    report = quality_report([[rated]], {"a": "true"}, [gold])["true"]
    assert (report["turn_was_error"], report["says_error"]) == (1.0, 0.0)


def test_three_raters_are_compared_by_alpha_and_may_leave_rows_out() -> None:
    rows, key = sample_turns(EPISODES, ARMS, turns=4)
    full = annotate(rows, key, set())
    report = quality_report([full, full, full[:3]], key)
    assert report["agreement"]["grounded/alpha"] == 1.0
    assert report["agreement"]["grounded/fleiss"] == 1.0
    assert "grounded/cohen" not in report["agreement"]
    with pytest.raises(ConfigError, match="not in the key"):
        quality_report([[{**full[0], "id": "other"}]], key)


def labeled(task: str, number: int, error: bool) -> dict[str, Any]:
    labels = {"turn_was_error": error, "says_error": True}
    return {"id": f"{task}{number}", "task_id": task, "seed": 0, "confidence": "high", "labels": labels}


def test_intervals_draw_episodes_and_not_turns() -> None:
    # Ten turns each of two episodes, one all wrong, one all right: only 0, 1/2 and 1 can be drawn.
    rows = [labeled(task, number, task == "a") for task in "ab" for number in range(10)]
    report = quality_report([rows], {row["id"]: "true" for row in rows})["true"]
    assert (report["turn_was_error"], report["turn_was_error/from"], report["turn_was_error/to"]) == (0.5, 0.0, 1.0)
    assert report["error/precision"] == 0.5
    assert (report["error/precision/from"], report["error/precision/to"]) == (0.0, 1.0)
    assert "rows/from" not in report


def test_bug_48_unanimous_episodes_have_no_interval_and_the_table_says_not_resolved() -> None:
    rows = [labeled(task, number, number > 3) for task in "ab" for number in range(10)]
    report = quality_report([rows], {row["id"]: "true" for row in rows})
    assert report["true"]["turn_was_error"] == 0.6
    assert not [name for name in report["true"] if name.endswith(("/from", "/to"))]
    ((_, *measures), *_) = tables(report)
    cells = {name: cell for name, cell in measures if cell}
    assert (cells["turn_was_error"], cells["rows"]) == ("0.600 [not resolved]", "20")


def test_a_single_episode_has_no_interval() -> None:
    rows = [labeled("a", number, number > 3) for number in range(10)]
    assert not [name for name in quality_report([rows], {row["id"]: "true" for row in rows})["true"] if "/from" in name]
