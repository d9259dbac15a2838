"""All vectors of the file, and tests that the checker detects known bugs."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / ".." / "shared" / "data" / "loss_vectors.json"
needs_vectors = pytest.mark.skipif(
    not VECTORS.exists(), reason="shared/data/loss_vectors.json is not beside the repository"
)


def load_checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("loss_vectors", ROOT / "tests" / "conformance" / "loss_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


checker = load_checker()


def case_of(name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    document = json.loads(VECTORS.read_text())
    for suite in document["suites"]:
        for case in suite["cases"]:
            if case["id"] == name:
                return case, suite["tensors"], document["tolerance"]
    raise AssertionError(name)


@needs_vectors
def test_every_vector_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert checker.main([str(VECTORS)]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.splitlines()[-1].endswith(" 0 failed")


@needs_vectors
def test_families_can_be_selected(capsys: pytest.CaptureFixture[str]) -> None:
    assert checker.main([str(VECTORS), "--only", "mix,fact"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "fact: 1 passed, 0 failed",
        "mix: 2 passed, 0 failed",
        "3 passed, 0 failed",
    ]


def write(tmp_path: Path, *cases: dict[str, Any]) -> str:
    path = tmp_path / "vectors.json"
    suite = {"name": "own", "tensors": {"a": 0.4}, "cases": list(cases)}
    path.write_text(json.dumps({"tolerance": {"rtol": 1e-8, "atol": 1e-10}, "suites": [suite]}))
    return str(path)


MIX = {
    "id": "mix",
    "family": "mix",
    "params": {"distillation_weight": 0.5, "mode": "convex"},
    "inputs": {"policy_loss": "@a", "distillation_loss": 0.1},
    "expected": {"loss": 0.25},
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"family": "sorcery"}, "unknown family 'sorcery'"),
        ({"expected": {"loss": 0.25 + 1e-7}}, "loss: expected 0.2500001, found 0.25"),
        ({"expected": {"loss": 0.25, "spread": 1.0}}, "spread: not computed"),
        ({"params": {**MIX["params"], "power": 2}}, "parameter 'power' was not used"),
        ({"inputs": {**MIX["inputs"], "extra": 1}}, "input 'extra' was not used"),
        ({"decoys": {"weights_swapped": 0.25}}, "decoy weights_swapped"),
        ({"params": {"distillation_weight": 0.5, "mode": "odd"}}, "ConfigError"),
        ({"inputs": {"policy_loss": "@b", "distillation_loss": 0.1}}, "KeyError"),
    ],
)
def test_nothing_passes_by_being_ignored(
    change: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checker.main([write(tmp_path, MIX, {**MIX, **change})]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert reason in lines[0]
    assert lines[-1] == "1 passed, 1 failed"


def test_a_file_without_the_selected_family_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checker.main([write(tmp_path, MIX), "--only", "ema"]) == 1
    assert "no case of ema" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "{", "[]", '{"suites": []}'])
def test_an_unreadable_file_fails_and_the_last_line_still_counts(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.json"
    if content is not None:
        path.write_text(content)
    assert checker.main([str(path), write(tmp_path, MIX)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"{path} is not a vector file" in lines[0]
    assert lines[-1] == "1 passed, 1 failed"


@needs_vectors
def test_bug_01_logits_off_by_one_give_the_decoy_and_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    case, tensors, tolerance = case_of("end_to_end/hero_toy_lm")
    right = checker.toy_logits

    def shifted(embedding: torch.Tensor, ids: list[int], gamma: float) -> torch.Tensor:
        return right(embedding, ids, gamma).roll(-1, dims=0)  # position i scored by the state after token i + 1

    monkeypatch.setattr(checker, "toy_logits", shifted)
    problems = checker.check(case, tensors, tolerance)
    assert any(problem.startswith("decoy off_by_one_shift") for problem in problems), problems


@needs_vectors
def test_bug_02_gradient_through_the_teacher_gives_the_decoy_norm() -> None:
    case, _, _ = case_of("end_to_end/hero_toy_lm")
    inputs, gamma = case["inputs"], case["params"]["gamma"]
    embedding = checker.real(inputs["embedding"]).requires_grad_()
    body, total, count = list(inputs["prompt_ids"]), torch.zeros((), dtype=torch.float64), 0
    for action, observation, hint, weight in zip(
        *(inputs[key] for key in ("action_ids", "observation_ids", "hint_ids", "turn_weights")), strict=True
    ):
        if hint is not None:
            n = len(action)
            log_q, log_p = (
                checker.toy_logits(embedding, context + inputs["generation_prompt_ids"] + action, gamma)[
                    -n - 1 : -1
                ].log_softmax(-1)
                for context in (body, body + hint)
            )
            m = ((log_q.exp() + log_p.exp()) / 2).log()
            jsd = (log_q.exp() * (log_q - m) + log_p.exp() * (log_p - m)).sum() / 2
            total, count = total + weight * jsd, count + n
        body += inputs["generation_prompt_ids"] + action + observation
    (total / count).backward()
    assert embedding.grad is not None
    assert embedding.grad.norm().item() == pytest.approx(case["decoys"]["gradient_through_teacher_norm"], rel=1e-9)
    assert embedding.grad.norm().item() != pytest.approx(case["decoys"]["correct_gradient_norm"], rel=1e-2)
