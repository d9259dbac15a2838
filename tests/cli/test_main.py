"""The command line refuses what cannot work before a model is loaded, and says what to do."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hero_pl.callbacks.collapse_guard import CollapseGuard
from hero_pl.cli.components import registered
from hero_pl.cli.lightning import instantiate
from hero_pl.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def message(capsys, args):
    """Error message of a refused command."""
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code not in (0, None)
    return capsys.readouterr().err


# -- refused ---------------------------------------------------------------------------------------------------------


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
    "empty": (b"# nothing yet\n", "contains nothing", "keys and values"),
    "a list": (b"- model\n", "contains a list", "keys and values"),
    "a word": (b"model\n", "contains a single value", "keys and values"),
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


def test_an_option_that_is_no_yaml_does_not_name_a_file(config, capsys, loads_no_model):
    assert 'in "the command line", line 1' in message(capsys, ["fit", "--config", config(), "--data={a: [1"])


def test_an_unknown_command_is_answered_with_the_nearest_one(capsys):
    assert "Did you mean 'rollout'" in message(capsys, ["rolout"])
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
        [sys.executable, "-c", "from hero_pl.cli.main import main; main()", "fit", "--config", path],
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
        (["fit", "--config", "run.yaml"], "hero_pl.cli.training.run_lightning"),
        (["rollout", "--config", "run.yaml"], "hero_pl.cli.rollout.play"),
        (["compare", "runs/a"], "hero_pl.runs.compare.compare_runs"),
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


def test_an_interruption_that_an_import_would_swallow_ends_the_program_in_one_line(tmp_path):
    (tmp_path / "lightning.py").write_text(
        "import os, signal\n\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    input()\n"
        "except BaseException:\n    raise ImportError('torn')\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-c", "from hero_pl.cli.main import main; main(['fit'])"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "envs")])},
    )
    assert (done.returncode, done.stderr) == (130, "hero_pl: fit was interrupted\n")


# -- accepted --------------------------------------------------------------------------------------------------------


def test_a_later_configuration_overlays_an_earlier_one(config, capsys, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("data: {group_size: 4}\nmodel: {objective: GRPO}\n", encoding="utf-8")
    main(["fit", "--config", config(), "--config", str(overlay), "--data.seed", "7", "--print_config"])
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
    main(["fit", "--config", config(turn_budget__max_turns=9), "--print_config"])
    first = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(first, encoding="utf-8")
    main(["fit", "--config", str(tmp_path / "again.yaml"), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(first)


def test_fit_then_resume_then_export_then_rollout(config, capsys, tmp_path, monkeypatch):
    changes = {"held_out__episodes": 2, "export__enabled": True}
    main(["fit", "--config", config(**changes)])
    run = tmp_path / "runs" / "tiny" / "version_0"
    assert {"config.yaml", "metrics.csv", "trajectories.jsonl", "summary.json", "eval.jsonl", "huggingface"} <= {
        path.name for path in run.iterdir()
    }
    checkpoint = next(run.glob("checkpoints/*.ckpt"))
    with monkeypatch.context() as patched:
        patched.setattr(
            "hero_pl.policy.huggingface.HuggingFacePolicy.load", lambda self: pytest.fail("a model was loaded")
        )
        text = message(capsys, ["fit", "--config", config(), "--ckpt_path", str(checkpoint)])
    assert f"trainer.max_steps=2: the checkpoint {checkpoint} has 2 optimizer steps" in text
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


def test_view_colors_every_token_and_never_replaces_such_a_page_by_a_poorer_one(config, capsys, tmp_path):
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
    assert f"to {run / 'trajectories.turns.html'} Colors are per turn, not per token" in shown
    assert "'/gone/tokenizer'" in shown
    assert f"{run / 'trajectories.html'}, which colors single tokens, was kept" in shown
    assert (run / "trajectories.html").read_text(encoding="utf-8") == page
    assert '"per_token":false' in (run / "trajectories.turns.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "folders", "markdown"),
    [
        ("a b --baseline x --markdown", "a b", True),
        ("--baseline x --markdown a b", "a b", True),
        ("a --baseline=x b", "a b", False),
        ("--baseline x a", "a", False),
    ],
)
def test_run_folders_may_stand_before_between_and_after_the_options(words, folders, markdown, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("hero_pl.runs.compare.compare_runs", lambda *given, **_: asked.append(given))
    for name in ("to_markdown", "print_comparison"):
        monkeypatch.setattr(f"hero_pl.runs.tables.{name}", lambda comparisons, name=name: asked.append(name))
    main(["compare", *words.split()])
    assert asked == [
        ([Path(one) for one in folders.split()], "x", "success"),
        ("print_comparison", "to_markdown")[markdown],
    ]


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


COMMANDS = (
    "view",
    "plot",
    "compare",
    "export-data",
    "rollout",
    "export",
    "components",
    "configs",
    "envs",
    "init",
    "check-env",
    "import-tau-bench",
)
LABELING = ("sample", "label", "form", "judge", "oracle", "outcome", "report")


@pytest.mark.parametrize(
    "words", [*((one,) for one in COMMANDS), *(("annotate", one) for one in LABELING)], ids=" ".join
)
def test_the_help_of_every_command_has_an_example(words, capsys):
    main([*words, "--help"])
    assert f"Example: hero_pl {' '.join(words)}" in " ".join(capsys.readouterr().out.split())


def test_the_help_of_compare_shows_the_command_of_the_readme(capsys):
    (line,) = re.findall(r"^hero_pl compare [^#\n]*", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    main(["compare", "--help"])
    assert f"Example: {line.strip()} " in " ".join(capsys.readouterr().out.split()) + " "


def test_the_help_of_a_lightning_command_has_an_example(capsys):
    main(["fit", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Example: hero_pl fit --config hero_pl:quickstart" in shown
    assert "--turn_budget.max_turns" in shown


def test_the_help_lists_every_command_by_what_it_is_for(capsys):
    main(["--help"])
    shown = capsys.readouterr().out
    places = [
        shown.index(word) for word in ("Train and evaluate", "│ fit ", "Look at runs", "│ compare ", "│ configs ")
    ]
    assert places == sorted(places)
    for command in (*COMMANDS, "fit", "validate", "test", "predict", "annotate"):
        assert f"│ {command} " in shown


def test_the_arguments_of_an_environment_are_yaml(capsys):
    main(["check-env", "hero_pl/PocketRetail-v0", "--env_args", "{size: 30, tasks: 60, compact: yes}"])
    assert "follows the API" in capsys.readouterr().out
    assert "compact='maybe'" in message(
        capsys, ["check-env", "hero_pl/PocketRetail-v0", "--env_args", "{compact: maybe}"]
    )
    assert "keys and values" in message(capsys, ["check-env", "hero_pl/PocketRetail-v0", "--env_args", "30"])


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
    assert "There is no file nowhere.yaml" in message(capsys, ["components", "--config", "nowhere.yaml"])
    assert "cannot be imported" in message(capsys, ["components", "--import", "no_such_package"])


def test_every_listed_component_says_what_it_is():
    for classes in registered().values():
        ours = [cls for cls in classes if cls.__module__.startswith("hero_pl.")]  # other tests define theirs
        assert ours
        for cls in ours:
            assert (cls.__doc__ or "").strip(), cls


def test_a_seed_gives_the_same_run_twice(config):
    first, second = (instantiate(["--config", config()]) for _ in range(2))
    assert first.datamodule.specs(3) == second.datamodule.specs(3)


def test_one_seed_decides_the_whole_run_unless_the_data_has_its_own(config):
    def seed(*words):
        return instantiate(["--config", config(), *words]).datamodule.seed

    assert [seed(), seed("--seed_everything=7"), seed("--seed_everything=7", "--data.seed=3")] == [0, 7, 3]
