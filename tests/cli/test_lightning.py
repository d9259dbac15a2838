"""Errors in configurations name the nearest valid name; checkpoints are played and exported."""

import json

import pytest
import torch
import yaml

from hero_pl.callbacks.checkpoints import AtomicCheckpointIO
from hero_pl.cli.main import main


def message(capsys, args):
    """Error message of a refused command."""
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code not in (0, None)
    return capsys.readouterr().err


def test_a_value_for_a_group_of_settings_is_answered_with_its_settings(config, capsys, loads_no_model):
    text = message(capsys, ["fit", "--config", config(), "--turn_budget", "100"])
    assert text.rstrip().endswith("turn_budget is a group of settings: set one of turn_budget.max_turns")


def test_a_misspelled_component_is_answered_with_the_nearest_one(config, capsys):
    text = message(capsys, ["fit", "--config", config(model__objective={"class_path": "SelfDistilation"})])
    assert text.count("Did you mean 'SelfDistillation'?") == 1
    assert "hero_pl components" in text


def reflector(class_path, **init_args):
    """Changes of a configuration: SelfDistillation with that reflector."""
    inner = {"class_path": class_path, "init_args": init_args}
    return {"model__objective": {"class_path": "SelfDistillation", "init_args": {"reflector": inner}}}


SUGGESTED = {
    "argument of a component": (reflector("SelfReflector", tokens_per_turns=16), [], "'tokens_per_turn'"),
    "argument of an inner component": (reflector("ShuffledReflector", iner="SelfReflector"), [], "'inner'"),
    "inner component": (reflector("ShuffledReflector", inner="SelfReflectr"), [], "'SelfReflector'"),
    "module of a component": (reflector("hero_pl.reflection.self_reflectr.SelfReflector"), [], "'SelfReflector'"),
    "field of the limits": ({"data__limits": {"max_turn": 3}}, [], "'max_turns'"),
    "key of a callback": ({"collapse_guard": {"actoin": "stop"}}, [], "'collapse_guard.action'"),
    "option": ({}, ["--data.tasks_per_stop", "3"], "'--data.tasks_per_step'"),
    "option of a component": ({}, ["--model.objective.reflektor=ShopRules"], "'reflector'"),
}


@pytest.mark.parametrize("typo", SUGGESTED)
def test_a_typo_is_answered_once_with_the_nearest_name(typo, config, capsys, loads_no_model):
    changes, words, right = SUGGESTED[typo]
    text = message(capsys, ["fit", "--config", config(**changes), *words])
    assert f"Did you mean {right}?" in text
    assert text.count("Did you mean") == 1, text


@pytest.mark.parametrize(
    "changes",
    [reflector("SelfReflector", weights="initialx"), reflector("nowhere.module.Refl"), reflector("Reflector")],
    ids=["a wrong value", "a missing module", "an abstract base"],
)
def test_what_is_no_misspelled_component_is_not_called_one(changes, config, capsys, loads_no_model):
    assert "There is no component" not in message(capsys, ["fit", "--config", config(**changes)])


@pytest.mark.parametrize("below", ["", "weights"])
def test_export_refuses_a_file_in_the_place_of_its_folder(below, capsys, tmp_path, loads_no_model):
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    text = message(capsys, ["export", str(tmp_path / "some.ckpt"), str(tmp_path / "taken" / below)])
    assert f"{tmp_path / 'taken'} is a file" in text
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "mine"


def played_by(out):
    """Replies of the episodes in a file."""
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return [[turn["text"] for turn in row["trajectory"]["turns"]] for row in rows]


def test_rollout_overlays_configurations_and_plays_the_weights_of_a_checkpoint(config, capsys, tmp_path):
    main(["fit", "--config", config(trainer__max_steps=1, model__lr=1.0)])
    run = tmp_path / "runs" / "tiny" / "version_0"
    checkpoint = next(run.glob("checkpoints/*.ckpt"))
    (tmp_path / "overlay.yaml").write_text("data: {limits: {max_turns: 1}}", encoding="utf-8")
    overlay, words = ["--config", str(tmp_path / "overlay.yaml")], ["--episodes", "3", "--out"]
    commands = {
        "untrained": ["--config", config()],
        "overlaid": ["--config", config(), *overlay],
        "trained": ["--checkpoint", str(checkpoint)],
        "both": ["--config", str(run / "config.yaml"), *overlay, "--checkpoint", str(checkpoint)],
    }
    played = {}
    for name, given in commands.items():
        main(["rollout", *given, *words, str(tmp_path / f"{name}.jsonl")])
        played[name] = played_by(tmp_path / f"{name}.jsonl")
    assert {name: len(replies[0]) for name, replies in played.items()} == {
        "untrained": 2,
        "overlaid": 1,
        "trained": 2,
        "both": 1,
    }
    assert played["overlaid"] == [replies[:1] for replies in played["untrained"]]
    assert played["both"] == [replies[:1] for replies in played["trained"]]
    assert played["trained"] != played["untrained"]


def test_rollout_takes_the_options_of_fit_in_their_order(config, capsys, tmp_path):
    (tmp_path / "overlay.yaml").write_text("data: {limits: {max_turns: 1}}", encoding="utf-8")
    words = ["--model.policy.init_args.hint_position=system", "--data.limits.max_turns=2", "--config"]
    words += [str(tmp_path / "overlay.yaml"), "--data.seed", "-1"]
    assert "data.seed=-1" in message(capsys, ["rollout", "--config", config(), *words])
    out = tmp_path / "played.jsonl"
    main(["rollout", "--episodes=2", "--config", config(), *words[:-1], "3", "--out", str(out)])
    assert [len(replies) for replies in played_by(out)] == [1, 1]  # the later file has the last word
    main(["rollout", "--config", config(), *words[:-1], "3", "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out.partition("\n")[2])
    assert shown["model"]["policy"]["init_args"]["hint_position"] == "system"
    typo = message(capsys, ["rollout", "--config", config(), "--data.tasks_per_stop=3"])
    assert "usage: hero_pl rollout --config FILE" in typo
    assert "Did you mean '--data.tasks_per_step'?" in typo


def test_rollout_names_what_it_lacks(config, capsys, tmp_path):
    assert "--config FILE, or --checkpoint FILE" in message(capsys, ["rollout"])
    assert "There is no checkpoint" in message(capsys, ["rollout", "--checkpoint", str(tmp_path / "some.ckpt")])
    (tmp_path / "some.ckpt").write_bytes(b"PK torn")
    assert "No config.yaml in the folders above" in message(
        capsys, ["rollout", "--checkpoint", str(tmp_path / "some.ckpt")]
    )
    missing = ["--checkpoint", str(tmp_path / "some.ckpt")]
    assert "some.ckpt cannot be read" in message(capsys, ["rollout", "--config", config(), *missing])
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"policy.nothing": torch.zeros(1)}}, tmp_path / "some.ckpt")
    text = message(capsys, ["rollout", "--config", config(), *missing])
    assert "some.ckpt: The checkpoint does not hold weights of this policy" in text
    assert "Traceback" not in text


def test_a_misspelled_class_of_another_package_is_answered_with_its_path(
    config, capsys, tmp_path, monkeypatch, loads_no_model
):
    (tmp_path / "own_package.py").write_text(
        "from hero_pl.teacher.hindsight import HindsightTeacher\n\n\n"
        'class Whisperer(HindsightTeacher):\n    """Whispers."""\n',
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    objective = {"class_path": "SelfDistillation", "init_args": {"teacher": {"class_path": "own_package.Whisper"}}}
    text = message(capsys, ["fit", "--config", config(model__objective=objective)])
    assert "Did you mean 'own_package.Whisperer'?" in text


@pytest.mark.parametrize(
    ("key", "wrong", "right"),
    [
        ("reflector", "SelfReflectr", "SelfReflector"),
        ("teacher", "HindsightTeecher", "HindsightTeacher"),
        ("weights", "InitalWeights", "InitialWeights"),
        ("divergence", "JensenShanon", "JensenShannon"),
        ("gate", "TeacherConfidense", "TeacherConfidence"),
        ("divergence", "Jensen", "JensenShannon"),
        ("divergence", "jensenshannon", "JensenShannon"),
        ("teacher", "FeedbackOnly", "FeedbackOnlyTeacher"),
        ("correction", "Sequence", "SequenceMask"),
    ],
)
def test_a_misspelled_part_of_the_objective_is_answered_with_the_nearest(
    key, wrong, right, config, capsys, loads_no_model
):
    objective = {"class_path": "SelfDistillation", "init_args": {key: wrong}}
    assert f"Did you mean {right!r}?" in message(capsys, ["fit", "--config", config(model__objective=objective)])
