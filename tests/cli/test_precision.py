"""``auto_precision`` takes bfloat16 only where it is fast, and every process of a run the same."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hero_pl.cli import precision
from hero_pl.cli.main import main
from hero_pl.policy.network import Network


class Settings(SimpleNamespace):
    def get(self, name: str) -> Any:
        return getattr(self, name, None)


def trainer(**changes: Any) -> Settings:
    return Settings(**{"accelerator": "cpu", "precision": None, **changes})


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(precision.CHOSEN, "")


def speed(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    monkeypatch.setattr(precision, "bfloat16_speed", lambda: ratio)


@pytest.mark.parametrize(("ratio", "taken"), [(2.1, "bf16-mixed"), (1.0, "32-true"), (0.4, "32-true")])
def test_the_faster_type_is_taken_and_the_reason_told(
    monkeypatch: pytest.MonkeyPatch, ratio: float, taken: str
) -> None:
    speed(monkeypatch, ratio)
    settings = trainer()
    assert f"{ratio:.1f} times" in str(precision.choose_precision(settings))
    assert settings.precision == taken


def test_a_given_precision_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    speed(monkeypatch, 2.1)
    settings = trainer(precision="32-true")
    assert precision.choose_precision(settings) is None
    assert settings.precision == "32-true"


def test_bug_694_a_process_of_the_same_run_makes_the_same_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    speed(monkeypatch, 1.31)
    precision.choose_precision(trainer())
    speed(monkeypatch, 1.29)  # the other process is disturbed while it measures
    settings = trainer()
    precision.choose_precision(settings)
    assert settings.precision == "bf16-mixed"


def test_a_gpu_with_bfloat16_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    speed(monkeypatch, 0.4)
    precision.choose_precision(trainer())  # on the CPU of the same process
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    settings = trainer(accelerator="auto")
    precision.choose_precision(settings)
    assert settings.precision == "bf16-mixed"


def test_the_measurement_is_a_ratio() -> None:
    assert 0.01 < precision.bfloat16_speed() < 100.0


@pytest.mark.parametrize("command", ["rollout", "check-hints"])
def test_bug_697_a_command_that_plays_has_the_precision_of_the_trainer(
    config: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    mixed: list[bool] = []
    own = Network.hidden_at

    def noted(*given: Any, **inputs: Any) -> Any:
        mixed.append(torch.is_autocast_enabled("cpu"))
        return own(*given, **inputs)

    monkeypatch.setattr(Network, "hidden_at", noted)
    monkeypatch.setattr(
        Network, "logits_at", lambda *given, **inputs: given[0]._head(given[1])(noted(*given, **inputs))
    )
    words = ["--config", config(trainer__precision="bf16-mixed"), "--episodes", "2", "--out", str(tmp_path / "out")]
    main([command, *words])
    during = mixed[mixed.index(True) :]  # loading measures in float32
    assert all(during)
