"""An environment that cannot be created is refused in one line that says what to do."""

import pytest

from hero_pl.errors import ConfigError
from hero_pl.rollout.environments import make

PACKAGE = """import gymnasium

gymnasium.register("makes/Ant-v0", entry_point="makes_package:Missing")
gymnasium.register("makes/Bee-v0", entry_point="makes_no_such_package:Bee")
gymnasium.register("makes/Cow-v0", entry_point="makes_package:Cow")


class Cow(gymnasium.Env):
    def __init__(self):
        self.moo(3)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that registers environments that cannot be created."""
    (tmp_path / "makes_package.py").write_text(PACKAGE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("split", [None, "train"])
@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("makes_nowhere:Ant-v0", ["makes_nowhere", "PYTHONPATH"]),
        ("makes_package:makes/Ant-v0", ["'Missing'", "entry_point"]),
        ("makes_package:makes/Bee-v0", ["makes_no_such_package", "Install"]),
        ("makes_package:makes/Cow-v0", ["'moo'", "__init__"]),
        ("makes_package:makes/Pant-v0", ["no 'makes/Pant-v0'", "'makes_package:makes/Ant-v0'"]),
        ("makes_package:makes/Ant-v7", ["no 'makes/Ant-v7'", "'makes_package:makes/Ant-v0'"]),
        ("makes_package:nowhere/Ant-v0", ["makes_package", "'nowhere/Ant-v0'"]),
        ("makes_package:a b", ["'makes_package:a b'"]),
    ],
)
def test_an_environment_that_cannot_be_made_is_answered_with_the_cure(env_id, words, split, package):
    with pytest.raises(ConfigError) as caught:
        make(env_id, split)
    text = str(caught.value)
    assert repr(env_id) in text
    assert all(word in text for word in words), text
    assert len(text.splitlines()) == 1
