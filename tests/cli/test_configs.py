"""Configurations by name and by file: scalars have the type that a person expects; errors name file and line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hero_pl.cli.configs import describe, dump_text, load_text, read_config, resolve
from hero_pl.cli.lightning import instantiate
from hero_pl.cli.main import main
from hero_pl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def message(capsys, args):
    """Error message of a refused command."""
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code not in (0, None)
    return capsys.readouterr().err


# -- names -----------------------------------------------------------------------------------------------------------


def test_every_file_of_the_checkout_has_a_name_and_is_listed_with_what_it_is() -> None:
    listed = describe().split("\n\n")
    assert len(listed) == len(list((ROOT / "configs").rglob("*.yaml")))
    for block in listed:
        name, *description, command = block.splitlines()
        assert resolve(name) == ROOT / "configs" / f"{name.removeprefix('hero_pl:')}.yaml"
        assert "".join(description).strip()
        assert f"--config {name}" in command
        assert "configs/" not in command


@pytest.mark.parametrize("name", ["../../x", "../configs/quickstart", "/etc/passwd", "", ".", "quickstart.yaml"])
def test_a_name_is_no_path(name) -> None:
    with pytest.raises(ConfigError, match="The package has no configuration"):
        resolve(f"hero_pl:{name}")


def test_a_misspelled_name_is_answered_with_the_nearest(capsys, loads_no_model) -> None:
    text = message(capsys, ["fit", "--config", "hero_pl:baselines/grop"])
    assert "Did you mean 'hero_pl:baselines/grpo'?" in text
    assert "hero_pl configs" in text


def test_an_installation_without_a_checkout_reads_the_folder_in_the_package(tmp_path) -> None:
    shutil.copytree(ROOT / "hero_pl", tmp_path / "hero_pl", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copytree(ROOT / "configs", tmp_path / "hero_pl" / "configs")
    script = "from hero_pl.cli.configs import resolve; print(resolve('hero_pl:baselines/grpo'))"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == tmp_path / "hero_pl" / "configs" / "baselines" / "grpo.yaml"


def test_every_command_with_a_configuration_takes_a_name(config, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["fit"], ["test"], ["rollout"]):
        overlays = ["--config", "hero_pl:quickstart", "--config=hero_pl:baselines/grpo"]
        main([*words, *overlays, "--print_config"])
        shown = yaml.safe_load(capsys.readouterr().out)
        assert shown["model"]["objective"]["class_path"].endswith(".GRPO")
        assert shown["data"]["group_size"] > 1
    main(["components", "--config", "hero_pl:quickstart"])
    assert "JensenShannon" in capsys.readouterr().out
    (tmp_path / "some.ckpt").touch()
    assert "some.ckpt cannot be read" in message(
        capsys, ["export", "some.ckpt", "out", "--config", "hero_pl:quickstart"]
    )
    assert "gone.jsonl" in message(capsys, ["annotate", "outcome", "gone.jsonl", "hero_pl:quickstart"])


# -- YAML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("true", True),
        ("False", False),
        ("1e-3", 0.001),
        ("1E-3", 0.001),
        ("1.0e-4", 0.0001),
        (".5", 0.5),
        ("-7", -7),
        ("0", 0),
        ("0x10", 16),
        ("1_000", 1000),
        ("~", None),
        ("null", None),
        ("2020-01-01", "2020-01-01"),
        ("12:30", "12:30"),
        ("'010'", "010"),
        ("'.nan'", ".nan"),
        (r"C:\runs\x", r"C:\runs\x"),
        ("007x", "007x"),
    ],
)
def test_a_scalar_is_what_it_looks_like(text, value) -> None:
    values = load_text(text)
    assert (values, type(values)) == (value, type(value))


@pytest.mark.parametrize(
    "text", ["010", "-010", "00", "0o17", ".nan", ".NaN", ".inf", "-.inf", "[1, 010]", "{a: .nan}"]
)
def test_a_number_that_is_not_finite_and_decimal_is_refused(text) -> None:
    with pytest.raises(ConfigError, match="expected a finite decimal number"):
        load_text(text)


def test_what_is_written_is_read_again_as_it_was() -> None:
    values = {"a": "1e3", "b": "no", "c": "010", "d": 1e-5, "e": "\u2028 \U0001f600", "f": None, "g": [1, 2.5, True]}
    values |= {"h": "0o10", "i": ".nan", "j": "yes", "k": "12:30", "l": "1_0", "m": "true", "n": {"o": "~"}}
    assert load_text(dump_text(values)) == values


def test_a_long_text_with_colons_stays_for_its_option_to_read() -> None:
    with pytest.raises(yaml.YAMLError):
        load_text("Reward: {{ reward }}\nReward: again")


REFUSED = {
    "a key twice": (
        "model: {lr: 1.0e-4}\ndata:\n  seed: 1\n  seed: 2\n",
        "line 4: the key 'seed' appears twice (first in line 3)",
    ),
    "a section twice": ("model: {lr: 1.0}\ndata: {}\nmodel: {}\n", "line 3: the key 'model' appears twice"),
    "octal": ("turn_budget:\n  max_turns: 010\n", "line 2: 010: expected a finite decimal number"),
    "nan": ("model: {lr: .nan}\n", "line 1: .nan: expected a finite decimal number"),
    "infinite": ("model: {clip: .inf}\n", "line 1: .inf: expected a finite decimal number"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("command", ["fit", "rollout", "components"])
def test_yaml_that_seems_to_say_something_else_is_refused_with_file_and_line(
    command, kind, config, capsys, tmp_path, loads_no_model
) -> None:
    text, expected = REFUSED[kind]
    (tmp_path / "over.yaml").write_text(text, encoding="utf-8")
    first = [] if command == "components" else ["--config", config()]
    error = message(capsys, [command, *first, "--config", str(tmp_path / "over.yaml")])
    assert f"hero_pl: {tmp_path / 'over.yaml'}, {expected}" in error


@pytest.mark.parametrize("words", [["--model.lr=.nan"], ["--model.lr", ".inf"], ["--data.env_args={a: 1, a: 2}"]])
def test_the_command_line_is_read_by_the_same_rules(words, config, capsys, loads_no_model) -> None:
    error = message(capsys, ["fit", "--config", config(), *words])
    assert "expected a finite decimal number" in error or "appears twice" in error


@pytest.mark.parametrize("where", ["file", "words"])
def test_words_are_text_where_text_is_taken_and_booleans_where_those_are(where, config, tmp_path) -> None:
    values = {
        "collapse_guard.action": "off",
        "held_out.method": "no",
        "trainer.logger.init_args.name": "on",
        "export.enabled": "yes",
        "trainer.enable_checkpointing": "no",
        "data.env_args": "{country: no, compact: off}",
    }
    (tmp_path / "over.yaml").write_text(
        "collapse_guard: {action: off}\nheld_out: {method: no}\nexport: {enabled: yes}\n"
        "trainer: {enable_checkpointing: no, logger: {init_args: {name: on}}}\n"
        "data: {env_args: {country: no, compact: off}}\n",
        encoding="utf-8",
    )
    over = [f"--config={tmp_path / 'over.yaml'}"] if where == "file" else [f"--{k}={v}" for k, v in values.items()]
    result = instantiate(["--config", config(), *over]).config
    assert result.collapse_guard.action == "off"
    assert result.held_out.method == "no"
    assert result.trainer.logger.init_args.name == "on"
    assert result.export.enabled is True
    assert result.trainer.enable_checkpointing is False
    assert result.data.env_args == {"country": "no", "compact": "off"}


def test_values_reach_the_run_through_its_own_record(config, tmp_path, capsys) -> None:
    main(["fit", "--config", config(collapse_guard={"action": "off"}), "--held_out.method=no", "--print_config"])
    (tmp_path / "again.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    again = read_config(tmp_path / "again.yaml")
    assert (again["collapse_guard"]["action"], again["held_out"]["method"]) == ("off", "no")


def test_a_folder_in_the_place_of_a_configuration_is_called_that(capsys, tmp_path, loads_no_model) -> None:
    assert f"{tmp_path} is a folder; expected a file" in message(capsys, ["fit", "--config", str(tmp_path)])
    (tmp_path / "quickstart.yaml").touch()
    error = message(capsys, ["fit", "--config", str(tmp_path / "quickstrat.yaml")])
    assert re.search(r"There is no file .*quickstrat\.yaml\. Did you mean .*quickstart\.yaml\?", error)


def test_a_configuration_may_be_written_on_the_command_line(config) -> None:
    inline = json.dumps({"data": {"seed": 5}})
    assert instantiate(["--config", config(), "--config", inline]).datamodule.seed == 5
