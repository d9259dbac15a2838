"""What the tests of several files about tau2-bench need."""

import importlib.util
from pathlib import Path

import pytest

from hero_envs.bridges.tau2_tasks import tau2_bench


@pytest.fixture
def tau2(monkeypatch):
    """The modules of tau2-bench; skips the test where no package has its files, or without its data."""
    spec = importlib.util.find_spec("tau2")
    if spec is None or not any((Path(one) / "registry.py").is_file() for one in spec.submodule_search_locations or ()):
        pytest.skip("needs tau2-bench (docs/environments.md says how to install it)")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or litellm asks for prices when it is imported
    found = tau2_bench()
    if not (found.utils.DATA_DIR / "tau2" / "domains" / "mock" / "tasks.json").is_file():
        pytest.skip("needs TAU2_DATA_DIR, the folder data of a checkout of tau2-bench")
    return found
