"""A tiny model as a folder, a server that draws from it, and policies that sample there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hero_pl.chat.actions import PlainText
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import Lora
from hero_pl.policy.server.sampler import ServerSampler
from tests.conftest import TINY
from tests.generate_server import GenerateServer, serving


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny model, which the trainer and the server read."""
    folder = tmp_path_factory.mktemp("model")
    made = HuggingFacePolicy(
        config={**TINY, "initializer_range": 0.3, "max_position_embeddings": 512}, tokenizer="hero_pl:pocket-shop"
    )
    made.load()
    made.save_pretrained(folder)
    return folder


@pytest.fixture
def server(model: Path) -> Iterator[GenerateServer]:
    with serving(model) as one:
        yield one


@pytest.fixture
def make(model: Path, tmp_path: Path) -> Any:
    """Makes a loaded policy that samples on servers."""

    def policy(
        *servers: GenerateServer, sync: str = "adapter", load: bool = True, **settings: Any
    ) -> HuggingFacePolicy:
        sampler = ServerSampler(
            [server.url for server in servers], str(tmp_path / "weights"), sync=sync, **{"timeout_s": 20.0, **settings}
        )
        lora = Lora(rank=4, alpha=8) if sync == "adapter" else None
        made = HuggingFacePolicy(pretrained=str(model), parser=PlainText(), sampler=sampler, lora=lora)
        if load:
            made.load()
        return made

    return policy
