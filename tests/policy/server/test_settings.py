"""Settings of the sampler that cannot work are refused before a model is read."""

from typing import Any

import pytest

from hero_pl.errors import ConfigError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.policy.server.sampler import ServerSampler
from tests.conftest import TINY
from tests.generate_server import GenerateServer

pytest.importorskip("peft", reason="adapters need the extra `lora`")


def test_what_cannot_work_is_refused_before_weights_are_read(server: GenerateServer, make: Any) -> None:
    adapter, folder = make(server, load=False), make(server, sync="folder", load=False)
    adapter.lora, folder.lora = folder.lora, adapter.lora
    with pytest.raises(ConfigError, match=r"sync=adapter: this policy trains all weights.*sync: folder"):
        adapter.sampler.check(adapter)
    with pytest.raises(ConfigError, match=r"sync=folder: this policy trains an adapter.*sync: adapter"):
        folder.sampler.check(folder)
    with pytest.raises(ConfigError, match=r"ServerSampler .* not those of a ScriptedPolicy"):
        adapter.sampler.check(ScriptedPolicy())
    right = make(server, sync="folder", load=False)
    with pytest.raises(ConfigError, match=r"weights: initial needs a server that keeps them.*initial_url"):
        right.sampler.check(right, "initial")
    with pytest.raises(ConfigError, match=r"constrained: true is not possible on servers"):
        right.sampler.check(right, constrained=True)
    scratch = HuggingFacePolicy(config=TINY, tokenizer="hero_pl:pocket-shop", sampler=right.sampler)
    with pytest.raises(ConfigError, match=r"cannot start from config:.*hero_pl export"):
        right.sampler.check(scratch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "localhost:8000"}, "expected http"),
        ({"url": "http://localhost:8000/v1"}, "without a path such as /v1"),
        ({"url": []}, "at least one"),
        ({"url": ["http://a:1", "http://a:1/"]}, "none twice"),
        ({"url": "http://a:1", "initial_url": "http://a:1"}, "none twice"),
        ({"url": "http://a:1", "sync": "nccl"}, "adapter or folder"),
        ({"url": "http://a:1", "timeout_s": 0.0}, "positive number of seconds"),
        ({"url": "http://a:1", "parallel": 0}, "at least 1"),
        ({"url": "http://a:1", "tolerance": -1.0}, "positive number of nats"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServerSampler(folder="weights", **settings)
