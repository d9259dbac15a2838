"""A policy from one GGUF file: read, trained as any other, and exported as a folder that transformers loads."""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.errors import ConfigError, PolicyError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import Lora
from hero_pl.types import ScoreRow

WIDTH, INNER, HEADS, LAYERS = 32, 64, 2, 2


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of two layers over the bytes, as llama.cpp would store it, its matrices in blocks of eight bits."""
    gguf = pytest.importorskip("gguf")
    tokenizer = byte_tokenizer()
    names = [*sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__), "ab", "<|endoftext|>"]
    control = set(tokenizer.all_special_tokens) | {"<|im_start|>", "<|endoftext|>"}
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    for name, value in (("context_length", 512), ("embedding_length", WIDTH), ("block_count", LAYERS)):
        getattr(writer, f"add_{name}")(value)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(names))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(names)
    writer.add_token_types([3 if name in control else 1 for name in names])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(names.index("<|im_end|>"))
    writer.add_bos_token_id(names.index("<|im_start|>"))
    writer.add_pad_token_id(names.index("<|pad|>"))
    writer.add_chat_template(tokenizer.chat_template)
    generator = torch.Generator().manual_seed(0)
    shapes = {"token_embd": (len(names), WIDTH), "output": (len(names), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        blocks = {f"attn_{one}": (WIDTH, WIDTH) for one in ("q", "k", "v", "output")}
        blocks |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
        blocks |= {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in blocks.items()}
    for name, shape in shapes.items():
        values = torch.ones(shape) if len(shape) == 1 else 0.3 * torch.randn(shape, generator=generator)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values.numpy())
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


@pytest.mark.parametrize(
    ("lora", "merge"), [(None, False), (Lora(rank=2, alpha=4), True), (Lora(rank=2, alpha=4), False)]
)
def test_bug_49_a_gguf_file_is_read_and_its_export_loads(
    file: Path, tmp_path: Path, lora: Lora | None, merge: bool
) -> None:
    policy = HuggingFacePolicy(pretrained=str(file), lora=lora)
    policy.load()
    assert policy.template.tokenizer.get_vocab().keys() >= byte_tokenizer().get_vocab().keys()
    prompt = policy.template.first_prompt("", "Hello")
    assert policy.template.encoder.decode(prompt).count("Hello") == 1
    action = policy.template.encoder.encode_untrusted("abc")
    row = ScoreRow((*prompt, *action), ((len(prompt), len(prompt) + len(action)),))
    ours = policy.score([row])
    ours.sum().backward()  # its weights can be trained
    folder = tmp_path / "export"
    policy.save_pretrained(folder, merge=merge)
    again = AutoModelForCausalLM.from_pretrained(folder)
    ids = [*prompt, *action]
    torch.testing.assert_close(logits(again, ids)[len(prompt) - 1 : -1], ours.detach(), atol=1e-4, rtol=0)
    # what transformers itself reads from the file
    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    torch.testing.assert_close(
        logits(again, ids), logits(AutoModelForCausalLM.from_pretrained(**place), ids), atol=1e-4, rtol=0
    )
    assert AutoTokenizer.from_pretrained(folder).chat_template == byte_tokenizer().chat_template
    later = HuggingFacePolicy(pretrained=str(folder))
    later.load()
    torch.testing.assert_close(later.score([row]), ours, atol=1e-4, rtol=0)


def test_a_file_that_is_not_there_or_is_no_gguf_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*tiny\.gguf.*Name a GGUF file"):
        HuggingFacePolicy(pretrained=str(tmp_path / "tiny.gguf"))
    broken = tmp_path / "broken.gguf"
    for cut in (file.read_bytes()[: file.stat().st_size // 2], file.read_bytes()[:1000], b"GGUF"):
        broken.write_bytes(cut)
        with pytest.raises(PolicyError, match=r"broken\.gguf.*whole GGUF file"):
            HuggingFacePolicy(pretrained=str(broken)).load()


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.gguf"
    path.touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'hero_pl\[gguf\]'"):
        HuggingFacePolicy(pretrained=str(path))
