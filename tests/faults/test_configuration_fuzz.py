"""Case 26, with configurations that nobody thought of: each is parsed, or refused in one paragraph."""

import copy
from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings

from hero_pl.cli.configs import read_config
from hero_pl.cli.lightning import instantiate
from hero_pl.cli.main import _cause
from hero_pl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "configs").rglob("*.yaml"))
COMPLETE = [path for path in sorted((ROOT / "configs").glob("*.yaml")) if "env:" in path.read_text(encoding="utf-8")]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
LONGEST = 4000
"""Characters of a message: the parser repeats the value that it was given."""

# -- bytes -------------------------------------------------------------------------------------------------------------

CUTS = st.tuples(
    st.floats(0, 1), st.floats(0, 0.05), st.binary(max_size=4) | st.sampled_from([b"&a ", b"*a", b"{", b": "])
)


def refusal(path):
    try:
        assert isinstance(read_config(path), dict)
    except ConfigError as error:
        return str(error)
    return None


@settings(
    derandomize=True, max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=st.sampled_from(SHIPPED), cuts=st.lists(CUTS, min_size=1, max_size=3))
@example(path=QUICKSTART, cuts=[(0.5, 1.0, b"")])  # the first half
@example(path=QUICKSTART, cuts=[(0.0, 1.0, b"a: &a [*a]")])
@example(path=QUICKSTART, cuts=[(0.0, 1.0, b"\xff\xfea")])
@example(path=QUICKSTART, cuts=[(0.0, 1.0, b"!!bool x")])
@example(path=QUICKSTART, cuts=[(0.0, 1.0, b"!!timestamp x")])
@example(path=QUICKSTART, cuts=[(0.0, 1.0, b"a: !!binary x")])
def test_a_file_with_other_bytes_is_read_or_refused_with_its_name(path, cuts, tmp_path):
    content = path.read_bytes()
    for place, share, put in cuts:
        start = int(place * len(content))
        content = content[:start] + put + content[start + int(share * len(content)) :]
    (tmp_path / "file.yaml").write_bytes(content)
    said = refusal(tmp_path / "file.yaml")
    if said is not None:
        assert str(tmp_path / "file.yaml") in said
        assert "\n\n" not in said
        assert len(said) < LONGEST


# -- values ------------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["", "auto", "no", "1:30", "-1", "1e3", "ShopRules", "GRPO", "../x", "\x00", "\ud7ff", "hero_pl:x"]
)
SCALARS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.integers(-2, 2) | WORDS
SCALARS |= st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2), max_leaves=4
)
CHANGES = st.tuples(st.integers(0, 10**6), st.sampled_from(["remove", "rename", "replace", "replace", "wrap"]), VALUES)


def places(values):
    """Every mapping of a configuration with each of its keys."""
    for key, value in values.items():
        yield values, key
        if isinstance(value, dict):
            yield from places(value)


def changed(values, changes):
    values = copy.deepcopy(values)
    for number, how, value in changes:
        known = list(places(values))
        if not known:
            break
        place, key = known[number % len(known)]
        old = place[key]
        if how in ("remove", "rename"):
            del place[key]
        if how == "rename":
            place[f"{key}s"] = old
        if how == "replace":
            place[key] = value
        if how == "wrap":
            place[key] = [old]
    return values


def outcome(values, folder, capsys):
    """``None``, or what is printed about a configuration that is refused; other errors get out."""
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    try:
        instantiate(["--config", str(path)])
    except SystemExit as ended:
        return capsys.readouterr().err if ended.code == 2 else f"Traceback: status {ended.code}"
    except ValueError as error:
        known = _cause(error)
        if known is None:
            raise
        return str(known)
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
        capsys.readouterr()
    return None


@pytest.mark.filterwarnings("ignore")
@settings(derandomize=True, max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(COMPLETE), changes=st.lists(CHANGES, min_size=1, max_size=2))
def test_a_configuration_with_other_values_is_parsed_or_refused_in_one_paragraph(path, changes, tmp_path, capsys):
    said = outcome(changed(read_config(path), changes), tmp_path, capsys)
    if said is not None:
        assert said.strip()
        assert "Traceback" not in said
        assert len(said) < LONGEST


FOUND = [
    "turn_budget: []",
    "data: {seed: '1:30'}",
    "data: {temperature: null}",
    "seed_everything: -1",
    "torch_threads: -1",
]


@pytest.mark.parametrize("text", FOUND)
def test_what_ended_in_a_traceback_once_is_refused(text, tmp_path, capsys):
    values = read_config(QUICKSTART)
    for section, value in yaml.safe_load(text).items():
        values[section] = {**values[section], **value} if isinstance(value, dict) else value
    assert outcome(values, tmp_path, capsys)
