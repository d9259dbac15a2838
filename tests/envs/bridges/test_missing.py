"""A bridge whose package is not installed says which extra to install."""

import sys

import pytest

from hero_pl.errors import ConfigError
from hero_pl.rollout.environments import make

BRIDGES = {
    "hero_pl/TextWorld-v0": ("textworld", "textworld", {}),
    "hero_pl/TextArena-v0": ("textarena", "textarena", {}),
    "hero_pl/ReasoningGym-v0": ("reasoning_gym", "reasoning-gym", {}),
    "hero_pl/Verifiers-v0": ("verifiers.v1", "verifiers", {"taskset": "package:Tasks"}),
}


@pytest.mark.parametrize("env_id", BRIDGES)
def test_a_missing_package_gives_one_line_with_its_extra(env_id, monkeypatch):
    package, extra, arguments = BRIDGES[env_id]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError) as raised:
        make(env_id, **arguments)
    assert f"pip install 'hero_pl[{extra}]'" in str(raised.value)
    assert "\n" not in str(raised.value)
