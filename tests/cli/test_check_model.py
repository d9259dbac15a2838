"""``hero_pl check-model``: every property is a line, a wrong one ends the command with status 1."""

import json
from pathlib import Path

import pytest

from hero_pl.chat.actions import PlainText
from hero_pl.chat.byte_tokenizer import byte_tokenizer
from hero_pl.cli.check_model import check
from hero_pl.cli.main import main
from hero_pl.policy.cached_rows import CachedRows
from hero_pl.policy.huggingface import HuggingFacePolicy

PROMPTS = {"first prompt", "later prompts", "hostile text", "hint system", "end tokens", "round trip"}
ARCHITECTURE = {"sampler", "score", "padded rows", "turns in one row", "training mode", "prefix_cache", "tree_mask"}
OTHERS = {"dropout", "adapter off", "frozen copy", "weights: sampler", "weights: score", "weights: training mode"}


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    status = 0
    try:
        main(["check-model", *words, "--json"])
    except SystemExit as end:
        status = int(end.code or 0)
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] == (status == 0)
    return report


def saved(folder: Path, chat_template: str | None = None) -> str:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = chat_template or tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_every_line_of_a_packaged_policy_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    report = printed(capsys, "hero_pl:pocket-shop")
    names = [line["name"] for line in report["lines"]]
    assert report["ok"]
    assert {"first prompt", "later prompts", "hint system", "end tokens", "round trip"} | ARCHITECTURE | OTHERS <= {
        *names
    }
    assert len(names) == len(set(names))
    assert report["seconds"] < 60


def test_the_policy_of_a_configuration_is_checked_with_its_parser(
    config, tiny_config, capsys: pytest.CaptureFixture[str]
) -> None:
    report = printed(capsys, "--config", config(), "--model.policy.init_args.parser=ToolCall")
    wrong = {line["name"]: line for line in report["lines"] if not line["ok"]}
    assert set(wrong) == {"tools"}
    assert "ReAct" in wrong["tools"]["cure"]
    assert report["model"] == tiny_config["model_type"]
    assert printed(capsys, "--config", config())["ok"]


def test_a_model_that_cannot_be_trained_is_a_table_with_a_red_line(tmp_path: Path, tiny_config) -> None:
    bert = {"model_type": "bert", **{k: v for k, v in tiny_config.items() if k.startswith(("hidden", "num", "inter"))}}
    lines = list(check(HuggingFacePolicy(config=bert, tokenizer=saved(tmp_path), parser=PlainText())))
    wrong = [line for line in lines if not line.ok]
    assert [line.name for line in wrong] == ["score"]
    assert wrong[0].cure


def test_what_loading_refuses_is_a_line(tmp_path: Path, tiny_config) -> None:
    few = {**tiny_config, "vocab_size": 10}
    (line,) = check(HuggingFacePolicy(config=few, tokenizer=saved(tmp_path)))
    assert (line.name, line.ok) == ("load", False)
    assert "ids" in line.detail


def test_dropout_is_named(tmp_path: Path, tiny_config) -> None:
    policy = HuggingFacePolicy(config={**tiny_config, "attention_dropout": 0.1}, tokenizer=saved(tmp_path))
    lines = {line.name: line for line in check(policy)}
    assert lines["dropout"].detail == "switched off: attention_dropout 0.1"
    assert lines["training mode"].ok


def test_the_weights_are_played_with_the_sampler_of_the_policy(
    tmp_path: Path, tiny_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = HuggingFacePolicy(config={**tiny_config, "initializer_range": 0.5}, tokenizer=saved(tmp_path))
    policy.load()
    run = CachedRows._run

    def shifted(self, *given, **how):
        logits, mask = run(self, *given, **how)
        return logits.roll(1, -1), mask

    monkeypatch.setattr(CachedRows, "_run", shifted)
    lines = {line.name: line for line in check(policy)}
    assert not lines["weights: sampler"].ok
    assert lines["weights: score"].ok


def test_a_model_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["check-model"])
    assert "needs a model" in capsys.readouterr().err


def test_the_table_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check-model", "hero_pl:pocket-shop"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "parser: ReAct" in shown
    assert "all right" in shown
