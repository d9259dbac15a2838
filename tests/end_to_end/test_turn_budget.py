"""The mechanism claims on the pocket shop at learning rate 1e-3, as means of two seeds where the runs are close.

The suite is a mechanism check whose answer is built in (see docs/results.md); that the answer comes out is a test of
the whole loop: rollouts, reflection, hints, both sides' layout, divergence, teacher weights, budget and evaluation.
"""

import statistics
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNS = {
    "feedback_only": ((0, 1), (250,)),
    "grpo": ((0,), (500,)),
    "hero_rule": ((0, 1), (250, 500)),
    "shuffled": ((0,), (500,)),
}
"""Seeds of what is trained, and the budgets at which it is compared."""

Means = dict[str, dict[int, float]]


@pytest.fixture(scope="module")
def means(tmp_path_factory: pytest.TempPathFactory) -> Means:
    """Mean success at temperature 1 by method and budget; budget 0 is the base policy."""
    sys.path.append(str(ROOT / "benchmarks"))
    from cells import Cell, result_of, run_cell

    out = tmp_path_factory.mktemp("grid")
    result: Means = {}
    for method, (seeds, budgets) in RUNS.items():
        curves = []
        for seed in seeds:
            more = (("held_out.greedy", False),)
            cell = Cell("pocket-webshop", method, "hero_pl:pocket-shop", 1e-3, seed, budgets, "test", 100, more=more)
            assert run_cell(cell, out) == "done", (cell.folder(out) / "log.txt").read_text()
            curves.append((result_of(cell, out) or {})["curve"])
        result[method] = {
            mark: statistics.fmean(curve[str(mark)]["success"] for curve in curves) for mark in (0, *budgets)
        }
    return result


@pytest.mark.slow
def test_hero_with_rules_solves_the_shop_within_500_turns(means: Means) -> None:
    assert means["hero_rule"][500] >= 0.9


@pytest.mark.slow
def test_a_diagnosis_teaches_faster_than_the_answer_of_the_environment_alone(means: Means) -> None:
    assert means["hero_rule"][250] - means["feedback_only"][250] >= 0.05


@pytest.mark.slow
def test_hero_is_ahead_of_grpo_at_500_turns(means: Means) -> None:
    assert means["hero_rule"][500] - means["grpo"][500] >= 0.2


@pytest.mark.slow
def test_shuffled_diagnoses_do_not_help(means: Means) -> None:
    assert means["shuffled"][500] <= means["shuffled"][0]
