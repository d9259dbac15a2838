"""A policy so small that a whole training run takes a second, and the run itself; a browser for pages."""

import os
import shutil
from collections.abc import Iterator

import lightning
import pytest
import torch
import yaml

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.chat.actions import PlainText
from hero_pl.datamodule import RolloutDataModule
from hero_pl.module import HeroModule
from hero_pl.objectives.self_distillation import SelfDistillation
from hero_pl.pocket.shop.reflector import ShopRules
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.rollout.collect import Limits

TINY = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


@pytest.fixture
def tiny_config():
    """Configuration of the model, for a YAML file."""
    return dict(TINY)


@pytest.fixture
def tiny_policy():
    """Makes a policy with random weights; it never succeeds in the pocket shop."""

    def make(**kwargs):
        return HuggingFacePolicy(config=dict(TINY), tokenizer="hero_pl:pocket-shop", parser=PlainText(), **kwargs)

    return make


@pytest.fixture
def tiny_module(tiny_policy):
    """Makes a module that trains such a policy, by default with HERO and rule labels."""

    def make(objective=None, **kwargs):
        torch.manual_seed(0)
        objective = objective or SelfDistillation(reflector=ShopRules())
        return HeroModule(tiny_policy(), objective, **{"lr": 1e-2, "warmup_steps": 0, **kwargs})

    return make


@pytest.fixture
def tiny_data():
    """Makes the pocket shop with two short episodes per step."""

    def make(**kwargs):
        defaults = {
            "env": "hero_pl/WebShopPocket-v0",
            "tasks_per_step": 2,
            "max_action_tokens": 4,
            "limits": Limits(max_turns=3),
        }
        return RolloutDataModule(**{**defaults, **kwargs})

    return make


@pytest.fixture
def fit(tmp_path):
    """Trains a module on the CPU; returns the trainer."""

    def run(module, data, steps=3, ckpt_path=None, **kwargs):
        trainer = lightning.Trainer(
            **{
                "accelerator": "cpu",
                "devices": 1,
                "max_steps": steps,
                "max_epochs": -1,
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "limit_val_batches": 0,
                "log_every_n_steps": 1,
                "default_root_dir": tmp_path,
                "plugins": [AtomicCheckpointIO()],
                **kwargs,
            }
        )
        trainer.fit(module, data, ckpt_path=ckpt_path)
        return trainer

    return run


@pytest.fixture
def config(tmp_path, tiny_config):
    """Writes a configuration of a short run, changed at dotted keys."""

    def write(name="run.yaml", **changes):
        values = {
            "model": {
                "policy": {
                    "class_path": "HuggingFacePolicy",
                    "init_args": {"config": tiny_config, "tokenizer": "hero_pl:pocket-shop", "parser": "PlainText"},
                },
                "objective": {"class_path": "SelfDistillation", "init_args": {"reflector": "ShopRules"}},
                "warmup_steps": 0,
            },
            "data": {
                "env": "hero_pl/WebShopPocket-v0",
                "tasks_per_step": 1,
                "max_action_tokens": 4,
                "limits": {"max_turns": 2},
            },
            "trainer": {
                "accelerator": "cpu",
                "max_steps": 2,
                "limit_val_batches": 0,
                "enable_progress_bar": False,
                "logger": {
                    "class_path": "lightning.pytorch.loggers.CSVLogger",
                    "init_args": {"save_dir": str(tmp_path / "runs"), "name": "tiny"},
                },
            },
        }
        for key, value in changes.items():
            *parents, last = key.split("__")
            place = values
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def loads_no_model(monkeypatch):
    """Ends the test if weights or a tokenizer are read."""

    def refuse(self):
        pytest.fail("a model was loaded before the mistake was refused")

    monkeypatch.setattr("hero_pl.policy.huggingface.HuggingFacePolicy.load", refuse)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """A browser for the whole session."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'hero_pl[browser]'")
    path = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
    )
    with api.sync_playwright() as made:
        path = path or made.chromium.executable_path
        if not os.path.exists(path):
            pytest.skip("needs Chromium: install it, or run: playwright install chromium")
        opened = made.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser) -> Iterator:
    """A page that may neither complain nor ask for anything but itself."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, complaints, requests = context.new_page(), [], []
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: request.is_navigation_request() or requests.append(request.url))
    page.set_default_timeout(20_000)
    yield page
    context.close()
    assert complaints == []
    assert requests == []
