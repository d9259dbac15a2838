"""Sampler, scorer and forward pass agree on every type of layer, or loading the model raises an error that names it."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.errors import PolicyError
from hero_pl.policy.branches import BranchScorer
from hero_pl.policy.cached_rows import CachedRows
from hero_pl.policy.check import settle
from hero_pl.policy.check.properties import Trial
from hero_pl.policy.check.small import SWITCH, WINDOW, small_copy
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.policy.loading import load_model, positions_of, without_dropout
from hero_pl.types import ScoreRow

SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LONGROPE = {
    "original_max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 5.0, 9.0],
        "original_max_position_embeddings": 64,
    },
}
WINDOWED = {**SIZES, "model_type": "mistral", "sliding_window": 64}
LONG = {**SIZES, "model_type": "phi3", **LONGROPE}
CHUNKED = {
    **SIZES,
    "model_type": "llama4_text",
    "head_dim": 8,
    "intermediate_size_mlp": 64,
    "num_local_experts": 2,
    "num_hidden_layers": 4,
    "attention_chunk_size": 64,
}
DYNAMIC = {
    **SIZES,
    "model_type": "llama",
    "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
}
HYBRID = {**SIZES, "model_type": "lfm2", "layer_types": ["conv", "full_attention"]}
RECURRENT = {**SIZES, "model_type": "mamba", "state_size": 4}


def model_of(config: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return load_model(None, AutoConfig.for_model(**config), torch.float32, "sdpa", 0)


def examined(config: dict[str, Any]) -> settle.Findings:
    from transformers import AutoConfig

    made = AutoConfig.for_model(**config)
    without_dropout(made)
    return settle.examine(made, "eager" if config is RECURRENT else "sdpa")


def loaded(folder: Path, config: dict[str, Any], **settings: Any) -> HuggingFacePolicy:
    byte_tokenizer().save_pretrained(folder)
    sizes = {k: v for k, v in config.items() if k != "vocab_size"}
    policy = HuggingFacePolicy(config=sizes, tokenizer=str(folder), **settings)
    policy.load()
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 1.5 / weight.shape[-1] ** 0.5)
    return policy.eval()


@pytest.mark.parametrize(
    ("config", "caching", "takes_seen", "cannot"),
    [
        (WINDOWED, "shared", False, {"tree_mask"}),
        (CHUNKED, "shared", False, {"tree_mask"}),
        (LONG, "shared", True, set()),
        (DYNAMIC, "shared", True, set()),
        (HYBRID, "row", False, {"prefix_cache", "tree_mask"}),
        (RECURRENT, "none", False, {"prefix_cache", "tree_mask"}),
    ],
    ids=["window", "chunks", "longrope", "dynamic rope", "hybrid", "recurrent"],
)
def test_bug_150_what_depends_on_slots_lengths_or_states_agrees_or_takes_the_slow_path(
    config: dict[str, Any], caching: str, takes_seen: bool, cannot: set[str]
) -> None:
    found = examined(config)
    assert [line for line in found.lines if not line.ok] == []
    assert (found.caching, found.takes_seen) == (caching, takes_seen)
    assert set(found.obstacles) == cannot


def test_a_small_copy_has_every_kind_of_layer_and_short_windows() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("gemma3_text")  # as large as the real one
    with torch.device("meta"):
        small = small_copy(AutoModelForCausalLM.from_config(config))
    assert set(small.config.layer_types) == set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert small.config.sliding_window == WINDOW
    assert type(small).__name__ == "Gemma3ForCausalLM"
    assert sum(weight.numel() for weight in small.parameters()) < 1_000_000
    assert small_copy(model_of(LONG)).config.rope_parameters["original_max_position_embeddings"] == SWITCH


def test_the_randomness_of_the_caller_is_left_alone() -> None:
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    small_copy(model_of(WINDOWED))
    assert torch.equal(torch.rand(2), want)


def test_an_architecture_is_tried_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    examined(WINDOWED)
    monkeypatch.setattr(settle, "Trial", None)
    examined(WINDOWED)


def test_bug_845_an_architecture_is_tried_in_float32_whatever_the_precision_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settle, "_known", {})
    torch.set_default_dtype(torch.bfloat16)
    try:
        found, after = examined({**WINDOWED, "dtype": "float32"}), torch.get_default_dtype()
    finally:
        torch.set_default_dtype(torch.float32)
    assert [line.detail for line in found.lines if not line.ok] == []
    assert after is torch.bfloat16


def test_the_architecture_is_tried_before_the_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hero_pl.policy.huggingface.load_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(PolicyError, match="BertLMHeadModel"):
        loaded(tmp_path, {**SIZES, "model_type": "bert"})


def test_an_architecture_without_a_small_copy_is_reported_with_the_command_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hero_pl.policy.check.small.LARGEST", 10)
    with pytest.warns(UserWarning, match=r"small copy: .* million weights are left.* check-model"):
        loaded(tmp_path, WINDOWED)
    with pytest.warns(UserWarning, match="small copy"):
        assert loaded(tmp_path, HYBRID).network.caching == "row"


# -- the check notices -----------------------------------------------------------------------------------------------


def trial(config: dict[str, Any]) -> Trial:
    return Trial(small_copy(model_of(config)))


def test_rows_that_are_not_moved_up_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CachedRows, "_move_up", lambda self: None)
    one = trial(WINDOWED)
    one.sampler()
    assert one.network.caching != "shared"


def test_frequencies_that_follow_the_longest_row_are_noticed() -> None:
    one = trial(LONG)
    one.sampler()
    one.network.rope_switches = ()
    lines = (one.score(), one.padded(), one.turns_in_one_row())
    assert [line.ok for line in lines] == [False, False, False]


class Forgetful(nn.Module):
    """Uses dropout in training, but has no setting for it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return nn.functional.dropout(self.inner(*args, **kwargs), 0.1, self.training)


def test_dropout_that_no_setting_names_is_noticed() -> None:
    small = small_copy(model_of(WINDOWED))
    small.model.layers[0].mlp = Forgetful(small.model.layers[0].mlp)
    one = Trial(small.eval())
    one.sampler()
    line = one.training_mode()
    assert not line.ok
    assert "random" in line.detail


def test_a_model_that_sees_the_future_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"BertLMHeadModel cannot be trained: (sampler|score): .* forward pass"):
        loaded(tmp_path, {**SIZES, "model_type": "bert", "is_decoder": False})


def test_frozen_copies_and_adapters_are_played_as_well() -> None:
    one = trial(WINDOWED)
    one.sampler()
    assert one.frozen_copy().ok
    one = trial(LONG)
    one.sampler()
    line = one.adapter_off()
    assert line.ok, line


# -- what load does with it ------------------------------------------------------------------------------------------


def test_a_slow_path_is_reported_when_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Lfm2ForCausalLM: sampler: .* row by row"):
        policy = loaded(tmp_path, HYBRID)
    assert policy.network is not None
    assert policy.network.caching == "row"


@pytest.mark.filterwarnings("error:.*sampler")
def test_a_model_that_agrees_has_no_warning(tmp_path: Path) -> None:
    loaded(tmp_path, WINDOWED)


def rows_of(policy: HuggingFacePolicy, length: int) -> list[ScoreRow]:
    ids = torch.randint(4, 99, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    return [ScoreRow((*ids[:cut], *ids[3:11]), ((cut + 4, cut + 8),)) for cut in (length // 3, length // 2, length)]


@pytest.mark.parametrize("how", ["prefix_cache", "tree_mask"])
@pytest.mark.parametrize("config", [CHUNKED, LONG, WINDOWED], ids=["chunks", "longrope", "window"])
def test_bug_151_shared_trunks_longer_than_a_window_or_switch_are_exact(
    config: dict[str, Any], how: Any, tmp_path: Path
) -> None:
    policy = loaded(tmp_path, config)
    rows = rows_of(policy, 90)
    scorer = BranchScorer(how)
    with warnings.catch_warnings(), policy.sampling():
        warnings.simplefilter("ignore")
        want = torch.cat([policy.score([row]) for row in rows])
        torch.testing.assert_close(scorer.score(policy, rows, "live"), want, atol=1e-3, rtol=1e-3)


def test_bug_152_a_long_row_does_not_change_the_rotary_positions_of_a_short_one(tmp_path: Path) -> None:
    policy = loaded(tmp_path, LONG)
    rows = rows_of(policy, 90)
    network = policy.need_network("the test")
    assert network.rope_switches == (64,)
    with policy.sampling():
        together = policy.score(rows)
        for row, got in zip(rows, together.split([row.scored for row in rows]), strict=True):
            for place, logits in zip(row.read, got, strict=True):
                context = torch.tensor([row.ids[: place + 1]])
                plain = network.model(input_ids=context, use_cache=False).logits[0, -1]
                torch.testing.assert_close(logits, plain, atol=1e-4, rtol=1e-4)


def test_contexts_beyond_a_rope_switch_are_reported_once(tmp_path: Path) -> None:
    policy = loaded(tmp_path, LONG)
    scorer = BranchScorer("prefix_cache")
    with policy.sampling():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scorer.score(policy, rows_of(policy, 40), "live")
        with pytest.warns(UserWarning, match="more than 64 tokens"):
            assert not scorer.shares(policy, rows_of(policy, 90), "live")
        assert not scorer.borrows(policy)


@pytest.mark.parametrize("name", ["dropout", "layerdrop", "resid_pdrop", "router_jitter_noise", "attention_dropout"])
def test_every_kind_of_chance_in_a_configuration_is_off(name: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("llama", **{name: 0.3})
    assert without_dropout(config) == {name: 0.3}
    assert json.loads(config.to_json_string(use_diff=False))[name] == 0.0


def test_dropout_of_a_configuration_inside_another_is_off() -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("gemma3", text_config={"model_type": "gemma3_text", "attention_dropout": 0.2})
    assert without_dropout(config) == {"attention_dropout": 0.2}
    assert config.text_config.attention_dropout == 0.0


def test_an_attention_that_the_architecture_lacks_is_named_with_the_one_to_take(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="attention: eager"):
        loaded(tmp_path, {**SIZES, "model_type": "codegen", "n_head": 4, "rotary_dim": 4})


def test_a_model_with_a_vision_part_is_played_as_its_own_class(tmp_path: Path) -> None:
    from transformers import AutoConfig

    tokenizer = byte_tokenizer()
    text = {**SIZES, "model_type": "gemma3_text", "head_dim": 8, "num_hidden_layers": 6, "sliding_window": 32}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        "gemma3",
        text_config={**text, "vocab_size": len(tokenizer), "max_position_embeddings": 300},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    load_model(None, config, torch.float32, "sdpa", 0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    policy = HuggingFacePolicy(pretrained=str(tmp_path))
    policy.load()
    assert policy.max_length == 300
    assert policy.findings is not None
    assert policy.findings.model == "Gemma3ForConditionalGeneration"
    assert all(line.ok for line in policy.findings.lines)


@pytest.mark.parametrize(
    "config", [{"model_type": "gpt2", "n_positions": 77}, {"model_type": "mpt", "max_seq_len": 77}]
)
def test_the_length_of_the_context_has_many_names(config: dict[str, Any]) -> None:
    from transformers import AutoConfig

    assert positions_of(AutoConfig.for_model(**config)) == 77
