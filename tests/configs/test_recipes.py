"""The recipes for real machines: they are valid without the machine, and ``fit --smoke`` runs each of them."""

import json
import re
import runpy
from pathlib import Path

import lightning
import pytest

from hero_pl.cli.estimate import estimate, peak_bytes
from hero_pl.cli.lightning import instantiate
from hero_pl.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*_qwen3_*.yaml"))
LARGE = runpy.run_path(str(Path(__file__).with_name("test_large_models.py")))["LARGE"]
GIB = 2**30
MACHINES = {
    "one_gpu": (1, 1),
    "one_gpu_server": (1, 1),
    "eight_gpus": (4, 1),
    "two_nodes": (8, 2),
    "data_parallel": (1, 1),
    "fsdp2": (1, 1),
}
"""Overlay -> devices and nodes; ``auto`` counts as one device."""


def words(*names):
    return [word for name in names for word in ("--config", str(CONFIGS / f"{name}.yaml"))]


def shaped(recipe, *overlays):
    """Words for the recipe with the shape of its model instead of the model."""
    policy, shape = "--model.policy.init_args", LARGE[recipe][2]
    scratch = (
        f"{policy}.pretrained=null",
        f"{policy}.tokenizer=hero_pl:pocket-shop",
        f"{policy}.config={json.dumps(shape)}",
    )
    return [*words(recipe, *overlays), *scratch]


def estimated(recipe, *overlays):
    pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    cli = instantiate(shaped(recipe, *overlays), elsewhere=True)
    return cli, *estimate(cli.model, cli.datamodule, str(cli.config.trainer.precision or "32-true"), cli.machine)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_figures_at_the_head_of_a_recipe_are_those_of_the_estimate(recipe):
    text = (CONFIGS / f"{recipe}.yaml").read_text(encoding="utf-8")
    head = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    figures = re.search(r"([\d.]+) GiB to train; .* ([\d.]+) GiB for weights and ([\d.]+) GiB .*; (\d+) s of", head)
    assert figures, head
    assert f"hero_pl estimate --config configs/{recipe}.yaml --tflops 400" in head
    _, rows, _, work = estimated(recipe)
    server = {row.name: row.bytes / GIB for row in rows if row.when == "server"}
    found = [peak_bytes(rows)[0] / GIB, server["weights"], server["keys and values"], work.operations / 400e12]
    assert [float(figure) for figure in figures.groups()] == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize("overlay", MACHINES)
def test_the_processes_of_a_machine_are_counted_as_the_trainer_does(overlay):
    cli = instantiate(shaped("webshop_qwen3_4b", f"hardware/{overlay}"), elsewhere=True)
    devices, nodes = MACHINES[overlay]
    assert (cli.machine.devices, cli.machine.nodes) == (devices, nodes)
    given = {"accelerator": "cpu", "logger": False, "devices": devices, "num_nodes": nodes}
    assert lightning.Trainer(**given, strategy="ddp").world_size == cli.machine.processes
    tasks = cli.datamodule.tasks_per_step * cli.machine.processes
    assert tasks == 32  # whatever the machine: runs can be compared, and resumed on another one


@pytest.mark.parametrize(("overlay", "room"), [("one_gpu_server", 0.4 * 80), ("eight_gpus", 80), ("two_nodes", 80)])
@pytest.mark.parametrize("recipe", ["webshop_qwen3_4b", "retail_qwen3_4b"])
def test_a_recipe_fits_with_a_quarter_left_for_the_allocator(recipe, overlay, room):
    _, rows, _, _ = estimated(recipe, f"hardware/{overlay}")
    assert peak_bytes(rows)[0] / GIB < 0.75 * room


@pytest.mark.parametrize("recipe", [*RECIPES, "smollm2_shop", "quickstart", "pocket_retail"])
def test_every_recipe_is_made_small_and_stays_itself(recipe, monkeypatch):
    pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cli = instantiate([*words(recipe), "--smoke"])
    policy, objective = cli.model.policy, cli.model.objective
    policy.load()
    assert sum(weight.numel() for weight in policy.parameters()) < 1_000_000
    assert policy.lora == instantiate(words(recipe)).model.policy.lora
    objective.check_policy(policy)
    objective.check(cli.datamodule.group_size)
    assert policy.network.model.config.model_type == (
        "qwen3_moe" if "30b" in recipe else "llama" if "smollm2" in recipe else "qwen3"
    )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_two_steps_as_a_smoke_test(recipe, tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    main(["fit", *words(recipe), "--smoke", f"--trainer.logger.init_args.save_dir={tmp_path}"])
    assert "Smoke test passed: 2 optimizer steps" in capsys.readouterr().out
    assert (tmp_path / f"{recipe.replace('_', '-')}-smoke" / "version_0" / "metrics.csv").exists()
