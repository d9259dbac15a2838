"""The script of the README trains unchanged, and importing the package loads no heavy library."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import hero_pl
from hero_pl.objectives.sft import SFT

ROOT = Path(__file__).resolve().parents[1]


def test_the_script_of_the_readme_trains_two_steps(tmp_path, monkeypatch, capsys) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^<!-- script.*?^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len([line for line in script.splitlines() if line]) <= 17
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(script, "README.md", "exec"), names)
    assert names["trainer"].global_step == 2
    assert names["module"].last_metrics["train/skipped_steps"] == 0.0
    assert 0.0 <= float(capsys.readouterr().out.split()[-1]) <= 1.0


def test_a_batch_with_nothing_to_learn_speaks_at_once_without_the_command_line(tiny_module, tiny_data, fit) -> None:
    objective = SFT(reward_threshold=1.0)  # the tiny policy has never won
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tiny_module(objective), tiny_data(), steps=1, max_epochs=1, limit_train_batches=1)
    assert [str(one.message) for one in caught if "Nothing was learned" in str(one.message)]


def test_every_name_of_the_door_is_the_class_of_its_module() -> None:
    assert set(hero_pl._HOMES) == set(hero_pl.__all__) <= set(dir(hero_pl))
    for name, home in hero_pl._HOMES.items():
        exported = getattr(hero_pl, name)
        assert (exported.__module__, exported.__name__) == (f"hero_pl.{home}", name)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        hero_pl.Nothing  # noqa: B018


def test_the_type_checker_reads_the_same_names() -> None:
    source = Path(hero_pl.__file__).read_text(encoding="utf-8")
    pairs = re.findall(r"^    from hero_pl\.([\w.]+) import (.+)$", source, re.MULTILINE)
    assert {name: home for home, names in pairs for name in names.split(", ")} == hero_pl._HOMES


@pytest.mark.parametrize("words", ["import hero_pl", "from hero_pl.cli.main import main; main(['--help'])"])
def test_importing_the_package_and_asking_for_help_load_nothing_heavy(words) -> None:
    script = f"import sys; {words}; print([n for n in ('torch', 'lightning', 'transformers') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
