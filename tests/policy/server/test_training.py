"""Runs with sampling on servers: which replies are trained on, and how the runs end."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from hero_pl.cli.lightning import instantiate
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.module import HeroModule
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.sampling import Sampling
from hero_pl.reflection.controls import ShuffledReflector
from hero_pl.reflection.self_reflector import SelfReflector
from hero_pl.types import FinishReason, StopReason
from tests.generate_server import GenerateServer

pytest.importorskip("peft", reason="adapters need the extra `lora`")

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def module_of(policy: Any, reflector: Any = None, **settings: Any) -> HeroModule:
    torch.manual_seed(0)
    objective = SelfDistillation(reflector=reflector or ShopRules())
    return HeroModule(policy, objective, **{"lr": 1e-2, "warmup_steps": 0, **settings})


def weights_of(module: HeroModule) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.policy.parameters() if p.requires_grad]


@pytest.mark.parametrize("sync", ["adapter", "folder"])
def test_a_run_learns_from_what_its_newest_weights_drew(
    server: GenerateServer, make: Any, tiny_data: Any, fit: Any, sync: str
) -> None:
    module = module_of(make(server, sync=sync, load=False))
    fit(module, tiny_data(), 3)
    assert module.policy.version == 3
    assert module.last_metrics["train/staleness"] == 0.0
    assert module.last_metrics["mismatch/abs_max"] < 1e-4
    turns = [turn for record in module.last_records for turn in record.trajectory.turns]
    assert {turn.policy_version for turn in turns} == {2}


def test_the_quickstart_on_a_server_runs_two_steps(server: GenerateServer, model: Path, tmp_path: Path) -> None:
    policy = "--model.policy.init_args"
    cli = instantiate(
        [
            *("--config", str(CONFIGS / "quickstart.yaml"), "--config", str(CONFIGS / "quickstart_vllm.yaml")),
            *(f"{policy}.pretrained={model}", f"{policy}.sampler.init_args.url={server.url}"),
            *(f"{policy}.sampler.init_args.folder={tmp_path}", f"--trainer.default_root_dir={tmp_path}"),
            *("--data.limits.max_turns=2", "--held_out.episodes=0", "--trajectories.every_n_steps=0"),
            *("--turn_budget.max_turns=0", "--trainer.limit_train_batches=2", "--trainer.max_epochs=1"),
            *("--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"),
        ]
    )
    cli.trainer.fit(cli.model, cli.datamodule)
    reviews = [body for body in server.bodies if body["sampling_params"]["temperature"] == 0.0]
    assert cli.datamodule.steps == 2
    assert cli.model.last_metrics["train/broken_episodes"] == 0.0
    assert {body["model"][-8:] for body in reviews} == {"-initial"}


def test_the_reviewer_asks_the_same_servers(server: GenerateServer, make: Any, tiny_data: Any, fit: Any) -> None:
    reflector = SelfReflector(weights="initial", mode="continue", tokens_per_turn=4)
    module = module_of(make(server, load=False), reflector, max_idle_batches=0)
    fit(module, tiny_data(), limit_train_batches=1, max_epochs=1)
    asked = [body["model"] for body in server.bodies if body["sampling_params"]["temperature"] == 0.0]
    assert asked
    assert {name[-8:] for name in asked} == {"-initial"}


def test_a_single_wrong_reply_costs_a_second_play_and_nothing_else(
    server: GenerateServer, make: Any, tiny_data: Any, fit: Any
) -> None:
    played: list[Any] = []
    for wrong in (0, 2):
        seen = [0]

        def tamper(path: str, answer: dict[str, Any], seen: list[int] = seen, wrong: int = wrong) -> None:
            if path == "/inference/v1/generate" and answer["model"] != "student":
                seen[0] += 1
                if 1 < seen[0] <= 1 + wrong:  # the first one is the check
                    answer["model"] = "hero-former-1"

        server.tamper = tamper
        module = module_of(make(server, load=False))
        fit(module, tiny_data(), 1)
        played.append([[turn.action_ids for turn in r.trajectory.turns] for r in module.last_records])
        assert module.last_metrics["train/broken_episodes"] == 0.0
    assert played[0] == played[1]


def test_replies_of_other_weights_never_enter_the_loss(
    server: GenerateServer, make: Any, tiny_data: Any, fit: Any
) -> None:
    def tamper(path: str, answer: dict[str, Any]) -> None:
        if path == "/inference/v1/generate" and len(answer["choices"][0]["token_ids"]) < 8:  # those of the check have 8
            answer["choices"][0]["weight_versions"][0]["version"] = "somebody-else"

    server.tamper = tamper
    module = module_of(make(server, sync="folder"))
    before = weights_of(module)
    with pytest.warns(UserWarning, match="Nothing was learned"):
        fit(module, tiny_data(), limit_train_batches=1, max_epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(module), strict=True))
    assert module.last_metrics["train/broken_episodes"] == 2.0
    assert {record.trajectory.stop_reason for record in module.last_records} == {StopReason.SAMPLER_ERROR}
    assert all("'somebody-else'" in record.trajectory.info["error"] for record in module.last_records)


def test_a_server_that_is_killed_and_comes_back_costs_no_episode(
    server: GenerateServer, make: Any, tiny_data: Any, fit: Any
) -> None:
    policy = make(server, load=False)
    drawn = [0]

    def tamper(path: str, answer: dict[str, Any]) -> None:
        if path == "/inference/v1/generate":
            drawn[0] += 1
            if drawn[0] == 8:
                threading.Thread(target=restart).start()
                server.dead.wait(20)

    def restart() -> None:
        server.die()
        server.start()

    server.tamper = tamper
    module = module_of(policy)
    fit(module, tiny_data(), 3)
    assert drawn[0] > 8
    assert module.policy.version == 3
    assert module.last_metrics["train/broken_episodes"] == 0.0
    assert module.last_metrics["mismatch/abs_max"] < 1e-4


def test_what_cannot_work_is_refused_before_a_model_is_loaded(
    server: GenerateServer, make: Any, tiny_data: Any, fit: Any, loads_no_model: Any
) -> None:
    initial = SelfReflector(weights="initial", mode="continue")
    for reflector in (initial, ShuffledReflector(initial)):
        with pytest.raises(ConfigError, match=r"weights: initial needs a server that keeps them"):
            fit(module_of(make(server, sync="folder", load=False), reflector), tiny_data())
    with pytest.raises(ConfigError, match=r"constrained: true is not possible on servers"):
        fit(module_of(make(server, load=False), SelfReflector(constrained=True)), tiny_data())
    server.die()
    with pytest.raises(PolicyError, match=r"No server for sampling: .*Start it with: "):
        fit(module_of(make(server, load=False)), tiny_data())


def test_a_signal_ends_a_session_that_waits(server: GenerateServer, make: Any) -> None:
    policy = make(server)
    session = policy.sampler.open(policy, Sampling(1.0, 4), [1])

    def strike(path: str, answer: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        server.over.wait(20)

    def end(number: int, frame: Any) -> None:
        raise SystemExit(number)

    server.tamper = strike
    before = signal.signal(signal.SIGUSR1, end)
    try:
        with pytest.raises(SystemExit):
            session.act([0], [policy.template.first_prompt("", "a lamp")])
    finally:
        signal.signal(signal.SIGUSR1, before)
    waiting = [thread for thread in threading.enumerate() if thread.name == "hero_pl sampler"]
    assert waiting
    assert all(thread.daemon for thread in waiting)  # so the process ends without them
    session.close([0])
    server.tamper = lambda path, answer: None
    (row,) = session.open([2])
    (action,) = session.act([row], [policy.template.first_prompt("", "a lamp")])
    assert action.finish_reason is not FinishReason.ERROR
