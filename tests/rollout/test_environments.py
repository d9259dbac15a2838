"""An environment that cannot be created is refused in one line that says what to do."""

import pytest

from hero_envs.tau_bench.users.recorded import RecordedUser
from hero_envs.tau_bench.users.scripted import ScriptedUser
from hero_pl.datamodule import RolloutDataModule
from hero_pl.errors import ConfigError
from hero_pl.rollout.collect import Collector
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


@pytest.mark.parametrize(
    ("name", "words"),
    [("split", "data.splits: {train: warmup}"), ("env_id", "keyword argument 'env_id'"), ("id", "argument 'id'")],
)
def test_bug_783_an_argument_with_a_name_of_ours_is_refused_in_one_line(name, words):
    with pytest.raises(ConfigError) as caught:
        Collector("hero_pl/WebShopPocket-v0", {name: "warmup"}, "train")
    assert "data.env_args" in str(caught.value)
    assert words in str(caught.value)
    with pytest.raises(ConfigError):
        RolloutDataModule("hero_pl/WebShopPocket-v0", {name: "warmup"}).collector("train")


def test_bug_783_a_split_is_refused_before_an_environment_is_made():
    with pytest.raises(ConfigError, match=r"data\.env_args\.split='warmup': .* data\.splits: \{train: warmup\}"):
        RolloutDataModule("hero_pl/WebShopPocket-v0", {"split": "warmup"})
    one, same = make("hero_pl/WebShopPocket-v0", split="test"), make("hero_pl/WebShopPocket-v0", "test")
    assert one.unwrapped.task_ids == same.unwrapped.task_ids


@pytest.mark.parametrize("user", [ScriptedUser("full"), RecordedUser(["Hello"])])
def test_bug_784_a_user_that_all_environments_would_share_is_refused(user):
    arguments = {"size": 60, "tasks": 20, "user": user}
    with pytest.raises(ConfigError, match=f"user is a {type(user).__name__}: all environments would share it"):
        RolloutDataModule("hero_pl/PocketRetail-v0", arguments)
    with pytest.raises(ConfigError, match="it plays one episode at a time"):
        Collector("hero_pl/PocketRetail-v0", arguments)
    assert make("hero_pl/PocketRetail-v0", **arguments).unwrapped.user is user  # a single environment
