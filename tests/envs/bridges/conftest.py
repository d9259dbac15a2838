"""What the tests of several files about tau2-bench need."""

import pytest

from hero_envs.bridges.tau2_tasks import tau2_bench


@pytest.fixture
def tau2(monkeypatch):
    """The modules of tau2-bench; skips the test without the package or its data."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or litellm asks for prices when it is imported
    try:
        found = tau2_bench()
    except ImportError as error:
        pytest.skip(f"needs tau2-bench: {error}")
    if not (found.utils.DATA_DIR / "tau2" / "domains" / "mock" / "tasks.json").is_file():
        pytest.skip("needs TAU2_DATA_DIR, the folder data of a checkout of tau2-bench")
    return found
