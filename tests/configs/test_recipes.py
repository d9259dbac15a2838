"""The recipes for real machines: they are valid without the machine, and ``fit --smoke`` runs each of them."""

from pathlib import Path

import pytest

from hero_pl.cli.lightning import instantiate
from hero_pl.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*_qwen3_*.yaml"))


def words(*names):
    return [word for name in names for word in ("--config", str(CONFIGS / f"{name}.yaml"))]


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
