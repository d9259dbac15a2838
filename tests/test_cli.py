"""The command line refuses what cannot work before a model is loaded, and names the cure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hero_pl.callbacks.collapse_guard import CollapseGuard
from hero_pl.cli import main
from hero_pl.components import registered
from hero_pl.lightning_cli import instantiate

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def config(tmp_path, tiny_config):
    """Writes a configuration of a short run, changed at dotted keys."""

    def write(name="run.yaml", **changes):
        values = {
            "model": {
                "policy": {
                    "class_path": "HuggingFacePolicy",
                    "init_args": {"config": tiny_config, "tokenizer": "hero_pl:pocket-shop", "parser": "PlainText"},
                },
                "objective": {"class_path": "SelfDistillation", "init_args": {"reflector": "ShopRules"}},
                "warmup_steps": 0,
            },
            "data": {
                "env": "hero_pl/WebShopPocket-v0",
                "tasks_per_step": 1,
                "max_action_tokens": 4,
                "limits": {"max_turns": 2},
            },
            "trainer": {
                "accelerator": "cpu",
                "max_steps": 2,
                "limit_val_batches": 0,
                "enable_progress_bar": False,
                "logger": {
                    "class_path": "lightning.pytorch.loggers.CSVLogger",
                    "init_args": {"save_dir": str(tmp_path / "runs"), "name": "tiny"},
                },
            },
        }
        for key, value in changes.items():
            *parents, last = key.split("__")
            place = values
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def loads_no_model(monkeypatch):
    """Ends the test if weights or a tokenizer are read."""

    def refuse(self):
        pytest.fail("a model was loaded before the mistake was refused")

    monkeypatch.setattr("hero_pl.policy.huggingface.HuggingFacePolicy.load", refuse)


def message(capsys, args):
    """What a refused command prints."""
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code not in (0, None)
    return capsys.readouterr().err


# -- refused ---------------------------------------------------------------------------------------------------------

MISTAKES = {
    "unknown key": ({"data__tasks_per_stop": 3}, "data.tasks_per_stop", "Did you mean 'data.tasks_per_step'?"),
    "unknown key of the trainer": ({"trainer__max_steps_": 3}, "trainer.max_steps_", "'trainer.max_steps'?"),
    "unknown section": ({"agent": {"lr": 1.0}}, "agent", "does not accept"),
    "negative steps": ({"trainer__max_steps": -5}, "max_steps", "non-negative integer or -1"),
    "unknown key of a component": (
        {"model__objective": {"class_path": "SelfDistillation", "init_args": {"reflektor": "ShopRules"}}},
        "reflektor",
        "SelfDistillation",
    ),
    "misspelt component": (
        {"model__objective": {"class_path": "SelfDistilation"}},
        "SelfDistilation",
        "SelfDistillation",
    ),
    "misspelt reflector": (
        {"model__objective": {"class_path": "SelfDistillation", "init_args": {"reflector": "ShopRule"}}},
        "ShopRule",
        "ShopRules",
    ),
    "negative budget": ({"turn_budget__max_turns": -1}, "max_turns", "0 for no budget"),
    "negative evaluation": ({"held_out__episodes": -5}, "held_out.episodes", "0 for no evaluation"),
    "negative log": ({"trajectories__every_n_steps": -1}, "every_n_steps", "0 for no log"),
    "unknown guard": ({"collapse_guard__action": "panic"}, "panic", "rollback"),
    "no window": ({"collapse_guard__limits": {"train/loss": {"window": 0}}}, "window", "window >= 1"),
    "group of one": ({"model__objective": "GRPO"}, "group_size", "Set data.group_size to 2 or more"),
    "empty group": ({"data__group_size": 0}, "data.group_size", "at least 1"),
    "unknown environment": ({"data__env": "hero_pl/WebShopPoket-v0"}, "WebShopPoket", "hero_pl/WebShopPocket-v0"),
    "no turn": ({"data__limits": {"max_turns": 0}}, "max_turns", "at least 1"),
    "wrong number": ({"model__lr": -1.0}, "lr", "lr > 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_before_a_model_is_loaded(mistake, config, capsys, loads_no_model):
    changes, thing, cure = MISTAKES[mistake]
    text = message(capsys, ["fit", "--config", config(**changes)])
    assert thing in text
    assert any(word in text for word in cure.split("|")), text
    assert "Traceback" not in text
    assert len(text.splitlines()) < 20


@pytest.mark.parametrize("joined", [False, True])
def test_yaml_that_does_not_parse_is_refused_with_its_file_and_place(joined, config, capsys, tmp_path, loads_no_model):
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: {policy: [\n", encoding="utf-8")
    words = [f"--config={broken}"] if joined else ["--config", str(broken)]
    text = message(capsys, ["fit", "--config", config(), *words])
    assert f'in "{broken}", line 2, column 1' in text


NO_CONFIGURATIONS = {
    "no yaml": (b"model: {policy: [\n", "is not YAML", "line 2, column 1"),
    "no text": (b"seed: \xff", "is not YAML", "position 6"),
    "empty": (b"# nothing yet\n", "holds nothing", "keys and values"),
    "a list": (b"- model\n", "holds a list", "keys and values"),
    "a word": (b"model\n", "holds a single value", "keys and values"),
}


@pytest.mark.parametrize("kind", NO_CONFIGURATIONS)
@pytest.mark.parametrize("command", ["fit", "validate", "rollout", "export", "components"])
def test_a_file_that_is_no_configuration_is_named_by_every_command(command, kind, capsys, tmp_path, loads_no_model):
    content, problem, detail = NO_CONFIGURATIONS[kind]
    (tmp_path / "bad.yaml").write_bytes(content)
    checkpoint = ["some.ckpt", str(tmp_path / "out")] if command == "export" else []
    text = message(capsys, [command, *checkpoint, "--config", str(tmp_path / "bad.yaml")])
    assert f"hero_pl: {tmp_path / 'bad.yaml'} {problem}" in text
    assert detail in text
    assert "Traceback" not in text


def test_an_option_that_is_no_yaml_is_not_blamed_on_a_file(config, capsys, loads_no_model):
    assert 'in "the command line", line 1' in message(capsys, ["fit", "--config", config(), "--data={a: [1"])


def test_a_misspelt_component_is_answered_with_the_nearest_one(config, capsys):
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
    [reflector("SelfReflector", weights="initail"), reflector("nowhere.module.Refl"), reflector("Reflector")],
    ids=["a wrong value", "a missing module", "an abstract base"],
)
def test_what_is_no_misspelt_component_is_not_called_one(changes, config, capsys, loads_no_model):
    assert "There is no component" not in message(capsys, ["fit", "--config", config(**changes)])


def test_an_unknown_command_is_answered_with_the_nearest_one(capsys):
    assert "Did you mean 'rollout'?" in message(capsys, ["rolout"])
    assert "hero_pl --help" in message(capsys, ["xyzzy"])


def test_a_missing_configuration_file_is_named(capsys):
    assert "nowhere.yaml" in message(capsys, ["fit", "--config", "nowhere.yaml"])


def test_a_missing_checkpoint_is_named(config, capsys, tmp_path, loads_no_model):
    text = message(capsys, ["fit", "--config", config(), "--ckpt_path", str(tmp_path / "gone.ckpt")])
    assert "gone.ckpt" in text


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_damaged_checkpoint_is_named_without_a_traceback(command, config, capsys, tmp_path):
    (tmp_path / "bad.ckpt").write_bytes(b"PK torn")
    text = message(capsys, [command, "--config", config(), "--ckpt_path", str(tmp_path / "bad.ckpt")])
    assert "bad.ckpt cannot be read" in text
    assert "weights_only" not in text


@pytest.mark.parametrize(("option", "value"), [("--episodes", "-3"), ("--stage", "tets")])
def test_rollout_refuses_what_it_cannot_play(option, value, config, capsys, loads_no_model):
    assert option.strip("-") in message(capsys, ["rollout", "--config", config(), option, value])


def test_the_installed_program_exits_with_a_message_and_no_traceback(config):
    path = config(turn_budget__max_turns=-1)
    done = subprocess.run(
        [sys.executable, "-c", "from hero_pl.cli import main; main()", "fit", "--config", path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode != 0
    assert "turn_budget.max_turns=-1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "place"),
    [
        (["fit", "--config", "run.yaml"], "hero_pl.cli.run_lightning"),
        (["rollout", "--config", "run.yaml"], "hero_pl.lightning_cli.play"),
        (["compare", "runs/a"], "hero_pl.compare.compare_runs"),
        (["annotate", "label", "turns.jsonl"], "hero_pl.annotate.terminal.ask_all"),
    ],
)
def test_an_interrupted_command_says_so_in_one_line_and_exits_with_130(args, place, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupted)
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code == 130
    assert capsys.readouterr().err == f"hero_pl: {args[0]} was interrupted\n"


@pytest.mark.parametrize("below", ["", "weights"])
def test_export_refuses_a_file_in_the_place_of_its_folder(below, capsys, tmp_path, loads_no_model):
    (tmp_path / "taken").write_text("mine", encoding="utf-8")
    text = message(capsys, ["export", str(tmp_path / "some.ckpt"), str(tmp_path / "taken" / below)])
    assert f"{tmp_path / 'taken'} is a file" in text
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "mine"


# -- accepted --------------------------------------------------------------------------------------------------------


def test_a_later_configuration_overlays_an_earlier_one(config, capsys, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("data: {group_size: 4}\nmodel: {objective: GRPO}\n", encoding="utf-8")
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", config(), "--config", str(overlay), "--data.seed", "7", "--print_config"])
    assert exit_.value.code in (0, None)
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["data"]["group_size"] == 4
    assert shown["data"]["seed"] == 7
    assert shown["data"]["tasks_per_step"] == 1
    assert shown["model"]["objective"]["class_path"].endswith(".GRPO")


def test_limits_of_the_collapse_guard_are_changed_added_and_dropped(config):
    limits = {"train/loss": {"high": 3.0}, "train/entropy": {"low": 0.1, "window": 4}, "rollout/repeated_actions": None}
    cli = instantiate(["--config", config(collapse_guard={"action": "rollback", "limits": limits})])
    (guard,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, CollapseGuard))
    assert guard.action == "rollback"
    assert guard.watches["train/loss"].limit.high == 3.0
    assert guard.watches["train/entropy"].limit.window == 4
    assert "rollout/repeated_actions" not in guard.watches
    assert "reflection/coverage" in guard.watches


def test_the_shown_configuration_can_be_read_again(config, capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["fit", "--config", config(turn_budget__max_turns=9), "--print_config"])
    first = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(first, encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tmp_path / "again.yaml"), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(first)


def test_fit_then_resume_then_export_then_rollout(config, capsys, tmp_path):
    changes = {"held_out__episodes": 2, "export__enabled": True}
    main(["fit", "--config", config(**changes)])
    run = tmp_path / "runs" / "tiny" / "version_0"
    assert {"config.yaml", "metrics.csv", "trajectories.jsonl", "summary.json", "eval.jsonl", "huggingface"} <= {
        path.name for path in run.iterdir()
    }
    checkpoint = next(run.glob("checkpoints/*.ckpt"))
    main(["fit", "--config", config(trainer__max_steps=3), "--ckpt_path", str(checkpoint)])
    main(["export", str(checkpoint), str(tmp_path / "exported"), "--config", str(run / "config.yaml")])
    assert (tmp_path / "exported" / "model.safetensors").read_bytes() == (
        run / "huggingface" / "model.safetensors"
    ).read_bytes()
    capsys.readouterr()
    main(["rollout", "--config", str(run / "config.yaml"), "--episodes", "3", "--out", str(tmp_path / "played.jsonl")])
    assert "3 episodes: success 0.000" in capsys.readouterr().out
    assert len((tmp_path / "played.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_rollout_prints_floor_user_tokens_and_pass_k_of_retail(config, capsys, tmp_path):
    retail = {"data__env": "hero_pl/PocketRetail-v0", "data__env_args": {"size": 30, "tasks": 60, "compact": True}}
    path, out = config(**retail), tmp_path / "played.jsonl"
    main(["rollout", "--config", path, "--episodes", "2", "--trials", "3", "--out", str(out)])
    shown = capsys.readouterr().out
    assert "6 episodes: success 0.000" in shown
    assert "Doing nothing would score 0.000" in shown
    assert "User: scripted-full" in shown
    assert "pass^k: k=1 0.000, k=2 0.000, k=3 0.000" in shown
    assert "pass@k: k=1 0.000" in shown
    assert "first message" in shown
    tasks = [json.loads(line)["trajectory"]["task_id"] for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(tasks) == 6
    assert sorted(tasks.count(task) for task in set(tasks)) == [3, 3]
    assert "trials=0" in message(capsys, ["rollout", "--config", path, "--trials", "0"])


def test_view_colours_every_token_and_never_replaces_such_a_page_by_a_poorer_one(config, capsys, tmp_path):
    main(["fit", "--config", config(trainer__max_steps=1)])
    run = tmp_path / "runs" / "tiny" / "version_0"
    main(["view", str(tmp_path / "runs" / "tiny")])
    page = (run / "trajectories.html").read_text(encoding="utf-8")
    assert '"per_token":true' in page
    assert capsys.readouterr().out.endswith(f"episodes to {run / 'trajectories.html'}\n")
    text = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(text.replace("hero_pl:pocket-shop", "/gone/tokenizer"), encoding="utf-8")
    main(["view", str(run)])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"to {run / 'trajectories.turns.html'} Turns are coloured as a whole" in shown
    assert "'/gone/tokenizer'" in shown
    assert f"{run / 'trajectories.html'}, which colours every token, was kept" in shown
    assert (run / "trajectories.html").read_text(encoding="utf-8") == page
    assert '"per_token":false' in (run / "trajectories.turns.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_an_evaluation_command_writes_what_it_played(command, config, tmp_path, capsys):
    main([command, "--config", config(data__eval_episodes=2)])  # which keeps validation out of `fit`
    written = tmp_path / "runs" / "tiny" / "version_0" / "trajectories.jsonl"
    stages = [json.loads(line)["stage"] for line in written.read_text(encoding="utf-8").splitlines()]
    assert stages == [command] * 2
    capsys.readouterr()
    main(["view", str(written), "--terminal", "--limit", "1"])
    assert command in capsys.readouterr().out


def test_help_and_version_and_lists_need_no_model(capsys, loads_no_model):
    for args in (["--help"], ["--version"], ["envs"], ["components"]):
        main(args)
    out = capsys.readouterr().out
    assert "hero_pl/WebShopPocket-v0" in out
    assert "ShopRules" in out
    assert "EMAWeights" in out


def test_components_of_other_packages_are_listed_when_a_configuration_or_an_option_names_them(
    capsys, tmp_path, monkeypatch
):
    source = (
        'from hero_pl.reflection.base import Reflector\n\n\nclass {}(Reflector):\n    """Says {}."""\n\n'
        "    def reflect(self, trajectories, policy):\n        return []\n"
    )
    (tmp_path / "aye_package.py").write_text(source.format("AyeSayer", "yes"), encoding="utf-8")
    (tmp_path / "nay_package.py").write_text(source.format("NaySayer", "no"), encoding="utf-8")
    (tmp_path / "run.yaml").write_text(
        "model: {objective: {init_args: {reflector: {class_path: aye_package.AyeSayer}}}}", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    main(["components", "--config", str(tmp_path / "run.yaml"), "--import", "nay_package"])
    listed = capsys.readouterr().out
    assert "  aye_package.AyeSayer     Says yes.\n" in listed
    assert "  nay_package.NaySayer     Says no.\n" in listed
    assert "\n  JensenShannon            ``(1 - beta) KL" in listed
    for base in ("Policy", "ActionParser", "Reflector", "Teacher", "TeacherWeights", "Gate", "Objective"):
        assert f"{base}:\n" in listed
    assert "No configuration nowhere.yaml" in message(capsys, ["components", "--config", "nowhere.yaml"])
    assert "cannot be imported" in message(capsys, ["components", "--import", "no_such_package"])


def test_a_misspelt_class_of_another_package_is_answered_with_its_path(
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
    ],
)
def test_a_misspelt_part_of_the_objective_is_answered_with_the_nearest(
    key, wrong, right, config, capsys, loads_no_model
):
    objective = {"class_path": "SelfDistillation", "init_args": {key: wrong}}
    assert f"Did you mean {right!r}?" in message(capsys, ["fit", "--config", config(model__objective=objective)])


def test_every_listed_component_says_what_it_is():
    for classes in registered().values():
        ours = [cls for cls in classes if cls.__module__.startswith("hero_pl.")]  # other tests define theirs
        assert ours
        for cls in ours:
            assert (cls.__doc__ or "").strip(), cls


def test_a_seed_gives_the_same_run_twice(config):
    first, second = (instantiate(["--config", config()]) for _ in range(2))
    assert first.datamodule.draws(3) == second.datamodule.draws(3)


def test_one_seed_decides_the_whole_run_unless_the_data_has_its_own(config):
    def seed(*words):
        return instantiate(["--config", config(), *words]).datamodule.seed

    assert [seed(), seed("--seed_everything=7"), seed("--seed_everything=7", "--data.seed=3")] == [0, 7, 3]
