"""The export at the end of a run takes no foreign folder, and leaves no other weights in its own."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from transformers import AutoModelForCausalLM

from hero_pl.callbacks.export import Export
from hero_pl.chat.actions import PlainText
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.export.data import Selection, Written
from hero_pl.export.dataset_card import write_dataset_card
from hero_pl.export.model_card import Exported, write_model_card
from hero_pl.export.target import check_target, remove_earlier
from hero_pl.module import HeroModule
from hero_pl.objectives.policy_gradient import PolicyGradient
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import Lora

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def adapted(tiny_policy: Any, tmp_path: Path) -> Any:
    """Makes a policy with an adapter on a base model in a folder."""
    base = tiny_policy()
    base.load()
    base.save_pretrained(tmp_path / "base")
    return lambda: HuggingFacePolicy(str(tmp_path / "base"), parser=PlainText(), lora=Lora(rank=2))


@pytest.fixture
def train(adapted: Any, tiny_data: Any, fit: Any, tmp_path: Path) -> Any:
    """One step with an adapter, and an export; returns the policy."""

    def run(**settings: Any) -> Any:
        policy = adapted()
        callbacks = [Export(enabled=True, **settings)]
        fit(HeroModule(policy, PolicyGradient()), tiny_data(), 1, callbacks=callbacks, logger=CSVLogger(tmp_path))
        return policy

    return run


def test_bug_751_weights_of_an_earlier_export_are_not_loaded_with_the_new_ones(train: Any, tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    train(folder=str(folder))
    assert (folder / "adapter_config.json").is_file()
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    policy = train(folder=str(folder), merge=True)  # as by a run that is resumed with other settings
    assert not list(folder.glob("adapter*"))
    assert (folder / "notes.txt").is_file()
    ids = torch.arange(5)[None]
    want = policy.network.model(ids).logits
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits, want)


def test_bug_751_a_folder_with_other_files_is_refused_before_weights_are_read(
    train: Any, loads_no_model: None, tmp_path: Path
) -> None:
    folder = tmp_path / "smollm2"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not empty"):
        train(folder=str(folder))
    remove_earlier(folder, tmp_path / "run")
    assert (folder / "config.json").is_file()
    with pytest.raises(ConfigError, match=r"config\.json is a file; expected a folder"):
        train(folder=str(folder / "config.json"))


@pytest.mark.parametrize("made", ["data set", "checkout", "data set in the run"])
def test_bug_872_neither_a_data_set_nor_a_checkout_is_an_earlier_export(made: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    folder = (run if "run" in made else tmp_path) / "folder"
    folder.mkdir()
    if made == "checkout":
        shutil.copyfile(ROOT / "README.md", folder / "README.md")
    else:
        write_dataset_card(folder, run, Selection("sft"), Written())
    (folder / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not empty"):
        check_target(folder, run)
    remove_earlier(folder, run)
    assert (folder / "config.json").is_file()
    write_model_card(folder, None, Exported(0, False, PlainText(), "GRPO"))
    check_target(folder)


def test_bug_751_an_adapter_is_not_saved_beside_a_whole_model(adapted: Any, tmp_path: Path) -> None:
    policy = adapted()
    policy.load()
    (tmp_path / "config.json").touch()
    with pytest.raises(PolicyError, match=r"has a config\.json of other weights"):
        policy.save_pretrained(tmp_path)
