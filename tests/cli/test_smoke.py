"""``hero_pl fit --smoke`` runs the given configuration with a tiny model, and needs no network."""

import json
import re
import socket

import pytest

from hero_pl.cli.lightning import instantiate
from hero_pl.cli.main import main
from hero_pl.cli.smoke import FixedDiagnoses, tiny
from hero_pl.policy.sampler import CachedSampler
from hero_pl.reflection.scripted import ScriptedReflector
from hero_pl.types import Diagnosis, Reflection

SELF = {"class_path": "SelfReflector", "init_args": {"mode": "transcript", "tokens_per_turn": 4}}
OBJECTIVE = {
    "class_path": "SelfDistillation",
    "init_args": {"reflector": SELF, "teacher": {"class_path": "HindsightTeacher", "init_args": {"template": "auto"}}},
}


@pytest.fixture
def no_network(monkeypatch):
    """Ends the test if a connection is opened."""

    def refuse(self, address):
        pytest.fail(f"connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_configuration_for_a_model_of_the_hub_takes_two_steps_here(config, capsys, no_network, tmp_path):
    changes = {
        "model__policy__init_args__pretrained": "Qwen/Qwen3-4B-Instruct-2507",
        "model__policy__init_args__config": None,
        "model__policy__init_args__tokenizer": None,
        "model__policy__init_args__gradient_checkpointing": True,
        "model__objective": OBJECTIVE,
        "data__tasks_per_step": 32,
        "data__max_action_tokens": 512,
        "trainer__accelerator": "gpu",
        "trainer__devices": 8,
        "trainer__num_nodes": 2,
    }
    main(["fit", "--config", config(**changes), "--smoke"])
    said = capsys.readouterr().out
    assert "model.policy.pretrained: Qwen/Qwen3-4B-Instruct-2507 -> qwen3 of 2 layers with random weights" in said
    for line in ("data.tasks_per_step: 32 -> 2", "trainer.devices: 8 -> 1", "trainer.num_nodes: 2 -> 1"):
        assert f"  {line}\n" in said
    assert "Smoke test passed: 2 optimizer steps, 8 turns" in said
    metrics = next(tmp_path.rglob("metrics.csv")).read_text(encoding="utf-8").splitlines()
    assert len(metrics) >= 3
    assert "reflection" in metrics[0]


def test_what_asks_a_server_is_replaced(config):
    server = {"class_path": "ServerSampler", "init_args": {"url": "http://localhost:1", "folder": "w"}}
    chat = {"class_path": "ChatReflector", "init_args": {"base_url": "http://localhost:1/v1", "model": "m"}}
    reflector = {"class_path": "ShuffledReflector", "init_args": {"inner": chat}}
    objective = {"class_path": "SelfDistillation", "init_args": {"reflector": reflector}}
    changes = {"model__policy__init_args__sampler": server, "model__objective": objective}
    user = {"user": {"url": "http://localhost:1/v1", "model": "m", "strategy": "llm"}}
    words = ["--config", config(**changes), "--data.env=hero_pl/PocketRetail-v0", "--data.ahead=1"]
    cli = instantiate([*words, f"--data.env_args={json.dumps(user)}", "--smoke"])
    assert isinstance(cli.model.policy.sampler, CachedSampler)
    assert isinstance(cli.model.objective.reflector, FixedDiagnoses)
    assert cli.model.objective.reflector.inner is None
    assert cli.datamodule.env_args["user"] == "scripted"
    assert cli.datamodule.ahead == 0


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3_moe"),
        ("Qwen/Qwen3-8B", "qwen3"),
        ("google/gemma-3-4b-it", "gemma3_text"),
    ],
)
def test_a_model_that_is_not_here_is_known_by_its_name(name, family):
    small = tiny(name, None)
    assert small["model_type"] == family
    assert small["hidden_size"] <= 64


def test_a_model_from_scratch_keeps_its_architecture(tiny_config):
    small = tiny(None, {**tiny_config, "model_type": "llama", "tie_word_embeddings": False})
    assert (small["model_type"], small["tie_word_embeddings"]) == ("llama", False)


def test_bug_644_diagnoses_of_the_reflector_are_kept():
    own = Diagnosis("own", "low")
    inner = ScriptedReflector([Reflection((own, None), "ok")])

    class Two:
        turns = (1, 2)
        task_id = "a"

    (found,) = FixedDiagnoses(inner).reflect([Two()], None)
    assert found.diagnoses[0] is own
    assert found.diagnoses[1].text
    (alone,) = FixedDiagnoses().reflect([Two()], None)
    assert all(alone.diagnoses)


def test_it_belongs_to_fit(config, capsys):
    with pytest.raises(SystemExit):
        main(["test", "--config", config(), "--smoke"])
    assert "--smoke tries a training run: give it to fit, not to test" in capsys.readouterr().err


@pytest.mark.parametrize("reflector", ["NoReflector", "RetailRules"])
def test_bug_645_a_configuration_that_cannot_train_fails(reflector, config, capsys):
    objective = {"class_path": "SelfDistillation", "init_args": {"reflector": reflector}}
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", config(model__objective=objective, data__tasks_per_step=1), "--smoke"])
    assert ended.value.code == 1
    assert re.search("NoReflector gives none|4 batches and no optimizer step", capsys.readouterr().err)


def test_bug_772_an_export_of_a_real_run_is_left_alone(config, capsys, tmp_path):
    real = tmp_path / "exported"
    real.mkdir()
    (real / "model.safetensors").write_text("of the real run")
    export = {"enabled": True, "folder": str(real)}
    main(["fit", "--config", config(export=export), "--smoke"])
    assert (real / "model.safetensors").read_text() == "of the real run"
    assert [path.name for path in real.iterdir()] == ["model.safetensors"]
    assert re.search(r"export\.folder: .* -> the run folder", capsys.readouterr().out)
    assert list(tmp_path.rglob("*-smoke/**/model.safetensors"))  # tried there


CSV = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "runs", "name": "mine"}}
OTHER = {"class_path": "lightning.pytorch.loggers.logger.DummyLogger"}


@pytest.mark.parametrize(
    ("loggers", "real", "name"),
    [([CSV], "mine", "mine-smoke"), ([OTHER, CSV], "mine", "mine-smoke"), (OTHER, None, "run-smoke")],
)
def test_bug_777_a_smoke_run_never_lies_where_the_real_run_will(loggers, real, name, config, capsys):
    words = ["--config", config(trainer__logger=loggers), "--smoke"]
    logger = instantiate(words).config.trainer.logger
    assert (logger.class_path.rpartition(".")[2], logger.init_args.name) == ("RunLogger", name)
    assert "trainer.logger: " in capsys.readouterr().out
    given = instantiate(words[:2]).config.trainer.logger
    first = next(
        (one for one in (given if isinstance(given, list) else [given]) if "RunLogger" in one.class_path), None
    )
    assert (first and first.init_args.name) == real  # it names the folder of the real run
