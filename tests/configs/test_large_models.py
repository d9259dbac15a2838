"""The configurations for models of 4B and 30B parameters: they build without memory and find their tasks."""

import re
from pathlib import Path

import pytest
import torch

from hero_pl.chat.actions import ReAct, ToolCall
from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.chat.template import ChatTemplate
from hero_pl.policy.scripted import ScriptedPolicy
from hero_pl.rollout.specs import EpisodeSpec

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
SHARED = ROOT / ".." / "shared"
QWEN3_4B = {
    "model_type": "qwen3",
    "hidden_size": 2560,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 9728,
    "vocab_size": 151936,
    "max_position_embeddings": 262144,
    "tie_word_embeddings": True,
}
"""Shape of Qwen3-4B; the adapter of rank 32 comes on top."""

QWEN3_30B_A3B = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "vocab_size": 151936,
    "max_position_embeddings": 262144,
    "tie_word_embeddings": False,
}
"""Shape of Qwen3-30B-A3B: 128 experts in each layer, 8 of them used."""

LARGE = {
    "webshop_qwen3_4b": ("hero_pl/WebShop-v0", ReAct, QWEN3_4B, 4.02e9),
    "retail_qwen3_4b": ("hero_pl/TauBenchRetail-v0", ToolCall, QWEN3_4B, 4.02e9),
    "webshop_qwen3_30b_a3b": ("hero_pl/WebShop-v0", ReAct, QWEN3_30B_A3B, 30.5e9),
    "retail_qwen3_30b_a3b": ("hero_pl/TauBenchRetail-v0", ToolCall, QWEN3_30B_A3B, 30.5e9),
}
"""Configuration -> environment, dialect, shape and number of parameters of its model."""


@pytest.mark.parametrize("config", LARGE)
@pytest.mark.parametrize("preset", [(), ("hero_paper",), ("hero_robust",), ("hardware/small_memory",)], ids=str)
def test_a_large_configuration_builds_its_model_without_memory(config, preset, tmp_path, compose, scratch) -> None:
    pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    byte_tokenizer().save_pretrained(tmp_path)
    files = [CONFIGS / f"{part}.yaml" for part in (config, *preset)]
    environment, parser, shape, size = LARGE[config]
    cli = compose(*files, arguments=[*scratch(shape, tmp_path), "--trainer.accelerator=cpu"])
    assert cli.datamodule.env == environment
    assert cli.datamodule.group_size == 1
    assert cli.model.optimization.lr == 1e-5
    policy = cli.model.policy
    assert type(policy.parser) is parser
    with torch.device("meta"):
        policy.load()
    frozen = [parameter for parameter in policy.parameters() if not parameter.requires_grad]
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    assert all(parameter.is_meta for parameter in (*frozen, *trained))
    assert sum(parameter.numel() for parameter in frozen) == pytest.approx(size, rel=0.01)
    assert 0 < sum(parameter.numel() for parameter in trained) < 0.02 * size
    assert {parameter.dtype for parameter in frozen} == {torch.bfloat16}


@pytest.mark.parametrize("config", LARGE)
def test_a_large_configuration_names_its_model(config) -> None:
    text = (CONFIGS / f"{config}.yaml").read_text(encoding="utf-8")
    model = "Qwen3-30B-A3B-Instruct-2507" if "30b" in config else "Qwen3-4B-Instruct-2507"
    assert f"pretrained: Qwen/{model}" in text


@pytest.mark.parametrize("environment", ["webshop", "retail"])
def test_the_two_sizes_differ_in_the_model_alone(environment, compose) -> None:
    small, large = (compose(CONFIGS / f"{environment}_qwen3_{size}.yaml").config for size in ("4b", "30b_a3b"))
    assert small.data == large.data
    assert small.model.objective == large.model.objective
    assert (small.turn_budget, small.held_out) == (large.turn_budget, large.held_out)


def test_the_adapter_of_the_mixture_leaves_experts_and_router_alone(tmp_path, compose, scratch) -> None:
    pytest.importorskip("peft", reason="the adapter needs the extra `lora`")
    byte_tokenizer().save_pretrained(tmp_path)
    shape = {**QWEN3_30B_A3B, "num_hidden_layers": 1}
    arguments = [*scratch(shape, tmp_path), "--trainer.accelerator=cpu"]
    policy = compose(CONFIGS / "webshop_qwen3_30b_a3b.yaml", arguments=arguments).model.policy
    with torch.device("meta"):
        policy.load()
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".self_attn." in name and "lora_" in name for name in trained)


def test_the_webshop_configuration_finds_its_tasks(compose) -> None:
    data = compose(CONFIGS / "webshop_qwen3_4b.yaml", arguments=["--data.env_args={products: 50}"]).datamodule
    assert all(data.collector(stage).task_ids for stage in ("train", "validate", "test"))


@pytest.fixture
def official_data():
    """The argument with the folder of the official data."""
    folder = SHARED / "data" / "taubench"
    if not folder.is_dir():
        pytest.skip("the folder shared/data/taubench is not beside the repository")
    return f"--data.env_args={{data_dir: {folder.resolve()}}}"


def test_the_retail_configuration_finds_its_tasks(official_data, compose) -> None:
    arguments = [official_data]
    data = compose(CONFIGS / "retail_qwen3_4b.yaml", arguments=arguments).datamodule
    assert {stage: len(data.collector(stage).task_ids) for stage in ("train", "validate", "test")} == {
        "train": 500,
        "validate": 20,
        "test": 115,
    }


@pytest.mark.parametrize("overlay", ["full_demo", "expert_warmup"])
def test_the_expert_of_the_retail_overlays_solves_official_tasks(overlay, official_data, compose) -> None:
    files = [CONFIGS / "retail_qwen3_4b.yaml", CONFIGS / "tau_bench" / f"{overlay}.yaml"]
    cli = compose(*files, arguments=[official_data])
    expert = cli.datamodule.demonstrations or cli.model.objective.teacher.expert
    collector = cli.datamodule.collector("train")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ tools | tojson }}" + tokenizer.chat_template
    policy = ScriptedPolicy(template=ChatTemplate(tokenizer), parser=cli.model.policy.parser)
    policy.load()
    played = expert.make(
        [EpisodeSpec(task, 0, i) for i, task in enumerate(collector.task_ids[:4])], policy.dialect, collector
    )
    assert [trajectory.reward for trajectory in played] == [1.0] * 4
    assert all("<tool_call>" in trajectory.turns[0].text for trajectory in played)


def test_the_retail_configuration_takes_a_model_as_user_and_reads_no_weights(compose) -> None:
    text = (CONFIGS / "retail_qwen3_4b.yaml").read_text(encoding="utf-8")
    user = re.search(r"""'(\{"user": \{"pretrained".*\})'""", text)
    assert user is not None
    data = compose(CONFIGS / "retail_qwen3_4b.yaml", arguments=[f"--data.env_args={user[1]}"]).datamodule
    assert data.env_args["user"] == {
        "pretrained": "Qwen/Qwen3-4B-Instruct-2507",
        "dtype": "bfloat16",
        "strategy": "react",
    }
