"""What the servers read of the weights of a step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.server.folders import HEAD, write_weights
from tests.conftest import TINY


def policy(**config: Any) -> HuggingFacePolicy:
    made = HuggingFacePolicy(config={**TINY, **config}, tokenizer="hero_pl:pocket-shop")
    made.load()
    return made


@pytest.mark.parametrize("sharded", [False, True])
def test_tied_embeddings_are_written_under_both_names(
    tmp_path: Path, sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tied = policy(tie_word_embeddings=True)
    model = tied.need_network("this test").model
    if sharded:
        save = model.save_pretrained
        monkeypatch.setattr(model, "save_pretrained", lambda folder: save(folder, max_shard_size="20KB"))
    folder = write_weights(tmp_path, "new", tied.need_network("this test").model)
    ((name, weight),) = load_file(folder / HEAD).items()
    assert name == "lm_head.weight"
    assert torch.equal(weight, model.get_input_embeddings().weight)
    index = folder / "model.safetensors.index.json"
    assert index.exists() == sharded
    if sharded:
        assert json.loads(index.read_text(encoding="utf-8"))["weight_map"]["lm_head.weight"] == HEAD
    again = HuggingFacePolicy(pretrained=str(folder), tokenizer="hero_pl:pocket-shop")
    again.load()
    for one, other in zip(tied.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_untied_embeddings_are_written_once(tmp_path: Path) -> None:
    folder = write_weights(tmp_path, "new", policy(tie_word_embeddings=False).need_network("this test").model)
    assert not (folder / HEAD).exists()
    assert "lm_head.weight" in load_file(folder / "model.safetensors")
