"""Two processes with gloo on the CPU learn exactly what one learns, with whole weights (DDP) and sharded ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
from two_processes import environment, finished, free_port
from two_ranks import CROSSINGS, MIDDLE, SAVED, SCENARIOS, SHARDED, STEPS, made, run

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO

BOTH = ("ddp", "fsdp2")
LEARNING = [name for name in SHARDED if SCENARIOS[name].steps == STEPS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints and exports: ``ddp``, ``fsdp2`` and ``alone``, and below each the scenarios."""
    return tmp_path_factory.mktemp("found")


@pytest.fixture(scope="module")
def every(folder, alone):
    """Results of both ranks by strategy and scenario."""
    for name in SAVED:
        alone(name)  # its checkpoints are resumed by two processes
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    started = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("two_ranks.py")), str(folder)],
            env=environment(**shared, LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(outputs)
    return [torch.load(folder / f"rank{rank}") for rank in range(2)]


@pytest.fixture(scope="module")
def ranks(every):
    """Results of both ranks in every scenario, with whole weights."""
    return [{name: result for (strategy, name), result in rank.items() if strategy == "ddp"} for rank in every]


@pytest.fixture(scope="module")
def alone(folder):
    """Results of one process with all episodes, computed on demand."""
    known = {}

    def of(name):
        if name not in known:
            saving = folder / "alone" / name if name in SAVED else None
            known[name] = run(SCENARIOS[name], world=1, folder=saving)
        return known[name]

    return of


def assert_close(actual, expected, what, tolerance=1e-5):
    assert actual.keys() == expected.keys()
    scale = max(float(value.abs().max()) for value in expected.values())
    for name in expected:
        assert float((actual[name] - expected[name]).abs().max()) <= tolerance * scale, (what, name)


def assert_same_steps(found, expected):
    """The same losses, relative to the norm of the gradient where terms of both signs leave next to nothing."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one["train/grad_norm"] == pytest.approx(other["train/grad_norm"], rel=2e-6)
        scale = max(abs(other["train/loss"]), other["train/grad_norm"])
        assert one["train/loss"] == pytest.approx(other["train/loss"], abs=1e-6 * scale)
        assert one["train/tokens"] == other["train/tokens"]


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("strategy", BOTH)
def test_two_processes_make_the_steps_of_one(strategy, name, every, alone):
    expected = alone(name)["steps"]
    assert min(step["train/grad_norm"] for step in expected) > 0.0
    for rank in every:
        assert_same_steps(rank[strategy, name]["steps"], expected)
        # AdamW makes large steps of the rounding of a gradient of almost 0
        assert_close(rank[strategy, name]["weights"], alone(name)["weights"], name, 1e-4)


def test_the_scenarios_differ_between_the_processes(every):
    """Unequal numbers of micro-batches and of passes, reviews by the policy itself, measurements of the teacher."""
    assert [rank["fsdp2", "two micro-batches and one"]["blanks"] for rank in every] == [[0, 0], [0, 1]]
    assert [rank["fsdp2", "one rank empty"]["blanks"] for rank in every] == [[0, 0], [1, 1]]
    assert any(max(rank["fsdp2", "groups"]["blanks"]) > 0 for rank in every)  # fewer passes in a micro-batch
    steps = every[0]["fsdp2", "reviewed by itself"]["steps"]
    assert any(step["reflection/coverage"] > 0.0 for step in steps)
    assert any(step.get("teacher/hint_sensitivity", 0.0) > 0.0 for step in steps)


def test_each_process_keeps_half_of_the_sharded_weights(every):
    for rank in every:
        assert rank["ddp", "groups"]["share"] == 1.0
        assert rank["fsdp2", "groups"]["share"] == pytest.approx(0.5, abs=0.01)


def test_what_sharded_weights_cannot_do_is_refused(every):
    for rank in every:
        assert "policy.gathered()" in rank["fsdp2", "groups"]["refused"]
        assert "model.matrix_lr=0.02 with FSDP2Strategy" in rank["fsdp2", "muon"]["error"]
        assert "error" not in rank["ddp", "muon"]


@pytest.mark.parametrize("name", ["unequal", "two micro-batches and one", "one rank empty"])
def test_sharded_gradients_are_those_of_one_process(name, every, alone):
    for rank in every:
        assert_close(rank["fsdp2", name]["gradient"], alone(name)["gradient"], name)


def test_sharded_processes_skip_a_step_and_end_together(every, alone):
    for rank in every:
        skipped = rank["fsdp2", "all ranks empty"]
        assert (skipped["gradient"], skipped["version"]) == ({}, 0)
        assert_close(skipped["weights"], alone("all ranks empty")["weights"], "all ranks empty")
    found = [rank["fsdp2", "one rank broken"]["error"] for rank in every]
    assert found == ["Process 1: the shop has closed", "the shop has closed"]


@pytest.mark.parametrize("name", SAVED)
def test_checkpoints_of_sharded_and_whole_weights_hold_the_same(name, folder, every, alone):
    alone(name)
    reads = AtomicCheckpointIO().load_checkpoint
    expected, *others = (reads(folder / by / name / "checkpoints" / MIDDLE) for by in ("alone", *BOTH))
    for state in others:
        assert_close(state["state_dict"], expected["state_dict"], "weights")
        (found,), (moments,) = state["optimizer_states"], expected["optimizer_states"]
        assert found["param_groups"] == moments["param_groups"]
        for moment in ("exp_avg", "exp_avg_sq"):
            assert_close(*({i: s[moment] for i, s in one["state"].items()} for one in (found, moments)), moment)
        assert state["hero"]["copies"].keys() == expected["hero"]["copies"].keys()
        for copy, weights in expected["hero"]["copies"].items():
            assert weights
            assert_close(state["hero"]["copies"][copy], weights, copy)


@pytest.mark.parametrize(("name", "before", "after"), CROSSINGS)
def test_a_run_is_resumed_under_another_strategy(name, before, after, every, alone):
    for rank in every:
        assert_same_steps(rank[f"{before} to {after}", name]["steps"], alone(name)["steps"][STEPS // 2 :])


@pytest.mark.parametrize(("name", "before", "after"), [crossing for crossing in CROSSINGS if "alone" not in crossing])
def test_bug_816_each_process_is_resumed_with_its_own_state(name, before, after, every):
    for rank in every:
        assert rank[f"{before} to {after}", name]["objective"] == rank[after, name]["objective"]
    first, second = (rank[after, name]["objective"]["probe"]["turns"] for rank in every)
    assert first != second


@pytest.mark.parametrize("name", SAVED)
def test_a_sharded_run_is_resumed_by_one_process(name, folder, every, alone):
    saved = folder / "fsdp2" / name / "checkpoints" / MIDDLE
    found = run(SCENARIOS[name], world=1, resume=saved)
    assert_same_steps(found["steps"], alone(name)["steps"][STEPS // 2 :])


@pytest.mark.parametrize("name", SAVED)
def test_the_export_of_sharded_weights_is_read_by_transformers(name, folder, every, tmp_path):
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    saved = folder / "fsdp2" / name
    last = AtomicCheckpointIO().load_checkpoint(saved / "checkpoints" / "last.ckpt")["state_dict"]
    trained = {key.removeprefix("policy.network.model."): value for key, value in last.items()}
    if SCENARIOS[name].lora is not None:  # it was merged, because the base model is random
        policy = made(SCENARIOS[name])
        policy.load()
        assert not policy.network.model.load_state_dict(trained, strict=False).unexpected_keys
        policy.save_pretrained(tmp_path, merge=True)
        found, wanted = (load_file(place / "model.safetensors") for place in (saved / "export", tmp_path))
        assert_close(found, wanted, "export", tolerance=0.0)
        return
    model = AutoModelForCausalLM.from_pretrained(saved / "export", dtype=torch.float32)
    assert len(AutoTokenizer.from_pretrained(saved / "export")) <= model.config.vocab_size
    ids = torch.arange(8)[None]
    logits = model(input_ids=ids).logits
    model.load_state_dict(trained)
    assert torch.equal(model(input_ids=ids).logits, logits)


@pytest.mark.parametrize("name", ["all hinted", "unequal", "unequal, per trajectory", "grpo"])
def test_bug_17_two_processes_give_the_gradient_of_one(name, ranks, alone):
    for rank in ranks:
        assert_close(rank[name]["gradient"], alone(name)["gradient"], name)
        assert rank[name]["turns"] == alone(name)["turns"]
    assert any(float(gradient.abs().max()) > 0.0 for gradient in alone(name)["gradient"].values())


def test_bug_18_a_process_without_any_hinted_turn_takes_part_with_gradient_zero(ranks, alone):
    for rank in ranks:
        assert_close(rank["one rank empty"]["gradient"], alone("one rank empty")["gradient"], "one rank empty")
    assert [rank["one rank empty"]["micro_batches"] for rank in ranks] == [2, 0]


def test_bug_18_a_step_without_hinted_turns_anywhere_is_skipped_by_both_processes(ranks, alone):
    for rank in ranks:
        result = rank["all ranks empty"]
        assert (result["gradient"], result["version"]) == ({}, 0)
        assert result["turns"] >= 15
        assert_close(result["weights"], alone("all ranks empty")["weights"], "all ranks empty")


def test_processes_may_have_different_numbers_of_micro_batches(ranks, alone):
    name = "two micro-batches and one"
    assert [rank[name]["micro_batches"] for rank in ranks] == [2, 1]
    for rank in ranks:
        assert_close(rank[name]["gradient"], alone(name)["gradient"], name)


def test_the_turn_budget_counts_the_turns_of_both_processes_and_stops_them_together(ranks, alone):
    counted = [(rank["budget"]["turns"], rank["budget"]["batches"]) for rank in ranks]
    assert counted[0] == counted[1]
    assert counted[0][0] >= 25
    assert counted[0][1] == alone("budget")["batches"] > 1
    first, second = (rank["budget"]["weights"] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_error_of_one_process_ends_both_with_its_reason(ranks):
    found = [rank["one rank broken"]["error"] for rank in ranks]
    assert found == ["Process 1: the shop has closed", "the shop has closed"]


def test_held_out_episodes_are_shared_and_every_process_has_the_results_of_all(ranks, alone):
    expected = alone("held out")
    assert expected["evaluated"] == 14  # before and after
    assert [rank["held out"]["evaluated"] for rank in ranks] == [8, 6]
    for rank in ranks:
        assert rank["held out"]["held_out"].keys() == expected["held_out"].keys() == {"0", str(expected["turns"])}
        for mark, found in rank["held out"]["held_out"].items():
            assert found == expected["held_out"][mark], mark


@pytest.mark.parametrize("name", ["all hinted", "unequal", "one rank empty", "grpo"])
def test_what_is_logged_speaks_for_both_processes(name, ranks, alone):
    first, second = (rank[name]["metrics"] for rank in ranks)
    assert first == pytest.approx(second, nan_ok=True)
    expected = alone(name)["metrics"]
    assert set(first) == set(expected)
    # of a single process: all of the batch at once, where two know their own percentiles and probes
    inexact = {"rollout/action_tokens_p50", "rollout/action_tokens_p95", "hero/empty_batches"}
    for metric in first.keys() - inexact:
        if not metric.startswith(("teacher/probe", "teacher/hint_sensitivity")):
            assert first[metric] == pytest.approx(expected[metric], rel=1e-4, abs=1e-6), metric


def test_bug_56_and_58_a_users_counter_mean_and_maximum_come_out_right_over_both_processes(ranks, alone):
    expected = {"mine/count": 8.0, "mine/mean": (2 * 0.5 + 6 * 1.0) / 8, "mine/largest": 3.0, "mine/rare": 7.0}
    for result in (*(rank["own metrics"]["metrics"] for rank in ranks), alone("own metrics")["metrics"]):
        mine = {name: value for name, value in result.items() if name.startswith("mine/")}
        assert mine == {**expected, "mine/micro_batches": 4.0, "mine/tokens": result["train/tokens"]}


def test_the_command_trains_on_two_processes_with_the_shipped_overlay(tmp_path):
    finished(tmp_path, {"turn_budget": {"max_turns": 16}, "held_out": {"episodes": 3, "at_turns": []}})
    folder = tmp_path / "runs" / "quickstart" / "version_0"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["training_turns"] >= 16
    assert summary["before"]["episodes"] == summary["after"]["episodes"] == 3
    assert not (tmp_path / "runs" / "quickstart" / "version_1").exists()
