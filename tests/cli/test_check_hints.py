"""``hero_pl check-hints`` measures the policy of a configuration and names the command line to use."""

import importlib
import json
import pkgutil
from dataclasses import replace

import pytest

import hero_pl.pocket
from hero_pl.cli.check_hints import RULES, _rules
from hero_pl.cli.lightning import instantiate
from hero_pl.cli.main import main
from hero_pl.errors import ConfigError
from hero_pl.pocket.shop.reflector import RuleReflector
from hero_pl.pocket.textworld.reflector import TextWorldRules
from hero_pl.types import StopReason, Trajectory


def test_it_writes_a_report_for_every_wording_and_the_configuration_s_own(config, tmp_path, capsys) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("psst {{ target }}")
    out = tmp_path / "hints.json"
    teacher = {"class_path": "HindsightTeacher", "init_args": {"template": str(own)}}
    path = config(model__objective__init_args__teacher=teacher)
    main(["check-hints", "--config", path, "--episodes", "2", "--turns", "2", "--out", str(out), "--data.seed", "3"])
    report = json.loads(out.read_text())
    names = {wording["template"] for wording in report["wordings"]}
    assert names == {"full", "short", "reply_exactly", "inline", "chat", str(own)}
    assert report["blamed"] == 2  # a policy with random weights does nothing right
    assert "no hint" in capsys.readouterr().out


def test_a_policy_that_does_not_act_is_measured_on_demonstrations(config, tmp_path, capsys) -> None:
    out = tmp_path / "hints.json"
    words = ["check-hints", "--demonstrations", "--episodes", "6", "--template", "short", "--out", str(out)]
    with pytest.raises(SystemExit):
        main([*words, "--config", config()])
    assert "data.demonstrations" in capsys.readouterr().err
    shown = {"class_path": "ShopDemonstrations", "init_args": {"branches": 0, "reviews": False}}
    main([*words, "--config", config(data__demonstrations=shown, data__limits={"max_turns": 12})])
    report = json.loads(out.read_text())
    assert report["blamed"] > 2
    assert report["right"] > 2  # the policy itself, with random weights, does nothing right


def test_templates_can_be_named(config, tmp_path) -> None:
    out = tmp_path / "hints.json"
    main(["check-hints", "--config", config(), "--episodes", "2", "--template", "chat", "--out", str(out)])
    assert [w["template"] for w in json.loads(out.read_text())["wordings"]] == ["chat"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "guess"], "guess"),
        (["--episodes", "0"], "--episodes=0"),
        (["--out", "."], ". is a folder; expected a file. Name another file with --out."),
        (["--figure", "hints.foo"], "hints.foo: expected a name that ends with .png or .svg"),
        (["--figure", f"{__file__}/hints.png"], "is a file; expected a folder. Name another file with --figure."),
        (["--model.objective.init_args.teacher", "FullDemoTeacher"], "shows no diagnoses"),
        (["--model.objective.init_args.teacher", "FeedbackOnlyTeacher"], "shows no diagnoses"),
        (["--model.objective.init_args.teacher", "EmptyHintTeacher"], "shows no diagnoses"),
    ],
)
def test_bug_753_settings_that_cannot_work_are_refused_before_a_model_is_loaded(
    words, message, config, loads_no_model, capsys
) -> None:
    with pytest.raises(SystemExit):
        main(["check-hints", "--config", config(), *words])
    assert message in capsys.readouterr().err


def test_bug_713_every_environment_with_rules_has_their_labels() -> None:
    for module in pkgutil.walk_packages(hero_pl.pocket.__path__, "hero_pl.pocket."):
        importlib.import_module(module.name)
    shipped = {kind for kind in RuleReflector.__subclasses__() if kind.__module__.startswith("hero_pl.")}
    assert set(RULES) == shipped
    first = "Take the hat.\n-= Attic =- You are in an attic. You can see a hat.\nYou are carrying nothing."
    game = Trajectory("t", "e", 0, 0, "", (), first, (), 0.0, StopReason.TERMINATED)
    assert type(_rules([game])) is TextWorldRules
    assert _rules([game, replace(game, first_observation="What can I do for you?")]) is None


def test_force_reaches_the_teacher_and_is_refused_where_there_is_nothing_to_force(config) -> None:
    auto = {"class_path": "HindsightTeacher", "init_args": {"template": "auto"}}
    path = config(model__objective__init_args__teacher=auto)
    assert instantiate(["--config", path, "--force", "true"]).model.objective.teacher.force
    assert not instantiate(["--config", path]).model.objective.teacher.force
    with pytest.raises(ConfigError, match="--force"):
        instantiate(["--config", config(), "--force", "true"])


def test_a_refused_run_ends_with_the_table_and_a_status(config, capsys) -> None:
    auto = {"class_path": "HindsightTeacher", "init_args": {"template": "auto"}}
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", config(model__objective__init_args__teacher=auto)])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "To train anyway: --force true" in error
    assert "reply_exactly" in error
