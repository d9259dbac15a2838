"""A new project: from ``hero_pl init`` to two training steps in at most eight commands, as its README says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hero_pl.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
MOST_COMMANDS = 8
LONGEST_ENVIRONMENT = 50


def refused(capsys, folder):
    with pytest.raises(SystemExit):
        main(["init", str(folder)])
    return capsys.readouterr().err


def test_from_init_to_two_steps_in_at_most_eight_commands_from_a_folder_that_is_not_on_the_path(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, source in (
        ("hero_pl", "import sys\nfrom hero_pl.cli.main import main\nsys.exit(main())"),  # as pip writes it
        ("pytest", "import sys\nimport pytest\nsys.exit(pytest.console_main())"),
    ):
        (programs / name).write_text(f"#!{sys.executable}\n{source}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    paths = {
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "envs")]),
        "OMP_NUM_THREADS": "1",
    }

    def run(command, folder):
        done = subprocess.run(
            ["sh", "-c", command], cwd=folder, env={**os.environ, **paths}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    run("hero_pl init my_env", tmp_path)
    project = tmp_path / "my_env"
    (block,) = re.findall(r"```sh\n(.*?)```", (project / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    commands = block.splitlines()
    assert 2 + len(commands) <= MOST_COMMANDS  # init and cd before them
    output_of = {command: run(command, project) for command in commands}
    assert "follows the API" in output_of["hero_pl check-env my_env:my_env/Guess-v0"]
    assert "3 passed" in output_of["pytest"]
    steps = re.findall(r"^step (\d)", output_of["hero_pl fit --config run.yaml --trainer.max_steps 2"], re.MULTILINE)
    assert steps == ["1", "2"]
    assert "Your guess?" in output_of["hero_pl view runs/my_env --terminal --limit 2"]


def test_the_environment_is_short_and_well_formed(tmp_path):
    main(["init", str(tmp_path / "my-env")])
    source = (tmp_path / "my-env" / "my_env.py").read_text(encoding="utf-8")
    assert len([line for line in source.splitlines() if line.strip()]) <= LONGEST_ENVIRONMENT
    for path in (tmp_path / "my-env").glob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")
    run = (tmp_path / "my-env" / "run.yaml").read_text(encoding="utf-8")
    assert "template: auto" in run.partition("\nmodel:")[0]  # of the real model that its comment shows
    ruff = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "120", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named ruff" not in ruff.stderr:
        assert ruff.returncode == 0, ruff.stdout


def test_bug_884_nothing_is_overwritten_and_a_name_is_that_of_a_module_and_stays_text(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    assert "is not empty" in refused(capsys, tmp_path / "mine")
    assert "a letter first" in refused(capsys, tmp_path / "2fast")
    assert "a letter first" in refused(capsys, tmp_path / "class")
    assert "There is a Python module 'numpy' already" in refused(capsys, tmp_path / "numpy")
    assert not (tmp_path / "numpy").exists()
    (tmp_path / "null").mkdir()
    main(["init", str(tmp_path / "null")])
    assert (tmp_path / "null" / "null.py").is_file()
    run = yaml.safe_load((tmp_path / "null" / "run.yaml").read_text(encoding="utf-8"))
    assert run["trainer"]["logger"]["init_args"] == {"name": "null"}


def test_a_module_in_the_current_folder_is_found_but_replaces_no_package(tmp_path):
    (tmp_path / "typing_extensions.py").write_text("raise SystemExit('taken over')\n", encoding="utf-8")
    (tmp_path / "beside.py").write_text("print('found')\n", encoding="utf-8")
    program = tmp_path / "bin" / "hero_pl"
    program.parent.mkdir()
    program.write_text(
        "from hero_pl.cli.main import main\nmain(['--version'])\nimport beside, typing_extensions\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "envs")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["found"]), done.stderr
