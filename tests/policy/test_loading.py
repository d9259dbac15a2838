"""What a policy is loaded from: one template for all prompts, and errors that name what cannot be loaded."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hero_pl.chat.actions import ActionParser, ReAct, ToolCall
from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.chat.history import History
from hero_pl.chat.probes import probe_template
from hero_pl.chat.template import CHATML, ChatTemplate
from hero_pl.chat.traits import TOOL
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import Lora
from hero_pl.types import Message

TOOLS = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"
USED = "\n{{ 'USED ' if message['role'] != 'assistant' }}{{"


@pytest.mark.parametrize(("parser", "own"), [(ToolCall(), "tool_use"), (ReAct(), "default")])
def test_bug_724_one_of_two_templates_renders_all_prompts(
    tmp_path: Path, tiny_config: Any, parser: ActionParser, own: str
) -> None:
    tokenizer = byte_tokenizer()
    templates = {"default": CHATML, "tool_use": TOOLS + CHATML.replace("\n{{", USED)}
    tokenizer.chat_template = templates
    tokenizer.save_pretrained(tmp_path)
    policy = HuggingFacePolicy(config=tiny_config, tokenizer=str(tmp_path), parser=parser)
    policy.load()
    template = policy.template
    system, tools = parser.describe("s", [TOOL])
    history = History(template, system, "hi", tools=tools)
    reply = template.encoder.encode_template("<|im_end|>", after=-1)
    messages = [*template.opening(system, "hi"), Message("assistant", ""), Message("tool", "seen")]
    wanted = template.tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages],
        tools=list(tools) or None,
        chat_template=templates[own],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert template.tokenizer.decode(history.append(reply, "seen", "tool")) == wanted
    hinted = template.tokenizer.decode(template.insert_hint(history.prompt_ids, "do it"))
    assert ("USED do it" in hinted) == (own == "tool_use")
    assert all(line.ok for line in probe_template(template, parser))


def test_templates_without_a_default_are_refused(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = {"tool_use": TOOLS + CHATML, "rag": CHATML}
    assert ChatTemplate(tokenizer, with_tools=True).renderer.source == TOOLS + CHATML
    with pytest.raises(PolicyError, match="several chat templates"):
        ChatTemplate(tokenizer)


def test_a_folder_without_a_tokenizer_is_named(tiny_policy: Any, tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.load()
    policy.network.model.save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match="has no tokenizer"):
        HuggingFacePolicy(pretrained=str(tmp_path)).load()


def test_a_tokenizer_without_a_chat_template_is_refused(tiny_config: Any, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match="no chat template"):
        HuggingFacePolicy(config=tiny_config, tokenizer=str(tmp_path)).load()


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(tiny_config: Any, tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match="259 ids"):
        HuggingFacePolicy(config={**tiny_config, "vocab_size": 100}, tokenizer=str(tmp_path)).load()


def test_damaged_weights_name_the_folder(tiny_policy: Any, tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.load()
    policy.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(PolicyError, match="cannot be read"):
        HuggingFacePolicy(pretrained=str(tmp_path)).load()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such model"}))
    with pytest.raises(PolicyError, match="configuration"):
        HuggingFacePolicy(pretrained=str(tmp_path)).load()


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (
            ["q_prj"],
            "no module 'q_prj'. Did you mean 'q_proj'? Set all-linear, or a list of: down_proj, gate_proj, k_proj",
        ),
        (["v_proj", "q_prj"], "no module 'q_prj'"),  # peft trains the others without a word
        ("q_prj", "no module 'q_prj'"),
        ("(", "is no pattern"),
        (["input_layernorm"], "is not supported"),
        ("nothing.*", "no module 'nothing.*'"),
    ],
)
def test_bug_755_modules_of_an_adapter_that_do_not_exist_are_named(targets: Any, words: str, tiny_policy: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        tiny_policy(lora=Lora(rank=2, target_modules=targets)).load()
    assert str(caught.value).startswith("model.policy.init_args.lora.target_modules")
    tiny_policy(lora=Lora(rank=2, target_modules=r".*\.layers\.0\..*q_proj")).load()


def test_bug_754_a_missing_folder_is_named_before_the_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: Any, **settings: Any) -> None:
        raise OSError("the hub was asked")

    monkeypatch.chdir(tmp_path)
    for name in ("AutoConfig", "AutoTokenizer"):
        monkeypatch.setattr(f"transformers.{name}.from_pretrained", refuse)
    for work in (HuggingFacePolicy.load, HuggingFacePolicy.context_length):
        with pytest.raises(
            ConfigError, match=r"no folder models/smollm2\. .*python benchmarks/get_smollm2\.py models/smol"
        ):
            work(HuggingFacePolicy(pretrained="models/smollm2"))
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / "mine").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=r"no folder models/mind\. Did you mean models/mine\?"):
            work(HuggingFacePolicy(pretrained="models/mind"))
        with pytest.raises(PolicyError, match=r"^There is no folder me/mine here, so .* hub id\. .* the hub was asked"):
            work(HuggingFacePolicy(pretrained="me/mine"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one"),
        ({"pretrained": "x", "config": {"model_type": "qwen3"}}, "exactly one"),
        ({"config": {"model_type": "qwen3"}}, "tokenizer"),
        ({"config": {"hidden_size": 8}, "tokenizer": "x"}, "model_type"),
        ({"pretrained": "x", "max_length": 3}, "max_length"),
        ({"pretrained": "hero_pl:no-such"}, "packaged"),
        ({"pretrained": "hero_pl:../../policy"}, "packaged"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_loading(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        HuggingFacePolicy(**arguments)
