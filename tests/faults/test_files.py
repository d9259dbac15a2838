"""Case 24: every file can be damaged; an error of hero_pl names it, and no other error is raised."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from hero_envs.tau_bench.importer import DataImportError, import_official, read_verified
from hero_envs.webshop import official, tasks
from hero_envs.webshop.generated import write_official
from hero_envs.webshop.nouns import get_nouns
from hero_envs.webshop.official import OFFICIAL, check_official, load_official
from hero_envs.webshop.products import DataError
from hero_pl.annotate.files import read_key, read_rows
from hero_pl.callbacks.checkpoints import read_settings as read_checkpoint_settings
from hero_pl.callbacks.checkpoints import verify
from hero_pl.callbacks.run_folder import cut_back
from hero_pl.cli.configs import read_config
from hero_pl.errors import ConfigError, HeroError
from hero_pl.policy.huggingface import HuggingFacePolicy
from hero_pl.runs.evaluations import load_results
from hero_pl.runs.plots import read_curves, run_seed, run_settings
from hero_pl.runs.records import read_records
from hero_pl.runs.settings import read_settings
from hero_pl.teacher.render import read_template

ROOT = Path(__file__).resolve().parents[2]
DEEP = "[" * 2000
DAMAGE: dict[str, bytes] = {
    "empty": b"",
    "half": b'{"a": {"b": [1, 2',
    "deep list": DEEP.encode(),
    "deep object": b'{"a":' * 2000,
    "another kind": b"[1, 2, 3]",
    "text": b"once upon a time",
    "another encoding": '{"a": "né"}'.encode("utf-16"),
    "no text": b"\xff\xfe\x00\x80" * 50,
    "zeros": b"\x00" * 4096,
    "carriage returns": b'{"a": 1}\r\n{"a": 2}\r\n',
    "a huge number": b'{"a": ' + b"9" * 5000 + b"}",
    "a huge field": b'a,b\n"' + b"x" * 200_000 + b'",1\n',
}


def error_of(function: Callable[[], Any]) -> Exception | None:
    try:
        function()
    except Exception as error:
        return error
    return None


def listed(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda path: list(function(path))


def in_run(name: str, function: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """A reader of a run folder that contains the file under its usual name."""

    def read(path: Path) -> Any:
        folder = path.parent / "run"
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder / name)
        return function(folder)

    return read


READERS: dict[str, Callable[[Path], Any]] = {
    "trajectories": listed(read_records),
    "evaluations": lambda path: load_results([path], "success"),
    "metrics": read_curves,
    "metrics of a resumed run": in_run("metrics.csv", lambda run: list(cut_back(run, {"metrics.csv": 0}))),
    "settings of a run": in_run("config.yaml", read_settings),
    "seed of a run": in_run("config.yaml", lambda run: run_seed(run_settings(run / "metrics.csv"))),
    "rows to label": read_rows,
    "key of the rows": read_key,
    "checkpoint": verify,
    "settings in a checkpoint": read_checkpoint_settings,
    "configuration": read_config,
    "hint template": lambda path: read_template(str(path), "short"),
    "noun table": lambda path: get_nouns(str(path)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_read_or_named(reader: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / ("file.json" if reader == "noun table" else "file")
    path.write_bytes(DAMAGE[damage])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torn lines
        error = error_of(lambda: READERS[reader](path))
    if error is not None:
        assert isinstance(error, ValueError if reader == "noun table" else HeroError)
        assert str(tmp_path) in str(error)
        assert len(str(error)) < 2000
        assert "\x00" not in str(error)


def test_a_configuration_may_neither_be_deep_nor_contain_itself(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    bombs = ["a: " + "[" * 100_000, "- " * 50_000, "a: &a {b: *a}", "a: &a [*a]"]
    levels = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 9))
    for text in (*bombs, f"x0: &x0 [1]\n{levels}"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"levels inside each other|anchors"):
            read_config(path)
    path.write_text("a: &a {b: 1}\nc: {<<: *a, d: 2}\n")
    assert read_config(path) == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}


OPTIONAL = ("settings of a run", "seed of a run", "metrics of a resumed run")
"""Readers of a run folder, in which the file may be missing."""


@pytest.mark.parametrize("reader", [name for name in READERS if name not in OPTIONAL])
def test_a_file_that_is_not_there_or_is_a_folder_is_named(reader: str, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        if reader == "evaluations" and path == tmp_path:
            continue  # a folder of runs
        if reader == "noun table" and path == tmp_path:
            continue  # the name of a rule
        with pytest.raises((HeroError, ValueError)) as caught:
            READERS[reader](path)
        assert str(tmp_path) in str(caught.value)


def test_lines_are_named_and_a_torn_last_one_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = json.dumps({"id": "a", "labels": {}})
    path.write_text(f"{row}\r\n\r\n{row}\n{row[:9]}")
    with pytest.warns(UserWarning, match=r"last line is unfinished \(9 bytes"):
        assert [one["id"] for one in read_rows(path)] == ["a", "a"]
    path.write_text(f"{row}\n{row[:9]}\n{row}\n")
    with pytest.raises(HeroError, match=r"rows\.jsonl, line 2 \(byte \d+\): not a JSON object"):
        read_rows(path)


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["empty", "half", "deep list", "another kind", "another encoding", "zeros"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_damaged_file_of_a_model_is_an_error_of_the_policy(name: str, damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "hero_pl" / "pocket" / "checkpoints" / "pocket-shop", folder)
    (folder / name).write_bytes(DAMAGE[damage])
    with pytest.raises(HeroError, match="model"):
        HuggingFacePolicy(pretrained=str(folder)).load()


# -- data of environments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["orders.json", "tasks_test.json", "tools.json", "policy.md"])
def test_damaged_data_of_taubench_is_named(name: str, damage: str, tmp_path: Path) -> None:
    data = ROOT / ".." / "shared" / "data" / "taubench"
    if not data.is_dir():
        pytest.skip("the official data lies in shared/ beside the repository")
    shutil.copytree(data / "retail", tmp_path / "retail")
    (tmp_path / "retail" / name).write_bytes(DAMAGE[damage])
    with pytest.raises(DataImportError, match=f"retail.{name}"):
        read_verified("retail", tmp_path / "retail")


def test_a_source_of_taubench_that_is_something_else_is_named(tmp_path: Path) -> None:
    for name in ("retail", "airline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.md").write_text("Be kind.")
    with pytest.raises(DataImportError, match=r"orders\.json cannot be read"):
        import_official(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    write_official(tmp_path, 20)
    return tmp_path


def make(folder: Path, **options: Any) -> Any:
    tasks.open_tasks.cache_clear()
    return gymnasium.make("hero_pl/WebShop-v0", data_dir=folder, nouns="rules", split="all", **options)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["items_shuffle.json", "items_ins_v2.json", "items_human_ins.json"])
def test_damaged_data_of_webshop_is_named(name: str, damage: str, shop: Path) -> None:
    (shop / name).write_bytes(DAMAGE[damage])
    with pytest.raises(DataError, match=str(shop)):
        make(shop)


WRONG = (None, 5, "x", [], {}, [1], {"a": 1}, [[1]], "nan", True, -1.5)


@pytest.mark.parametrize("name", ["items_shuffle.json", "items_ins_v2.json", "items_human_ins.json"])
def test_an_entry_of_webshop_with_a_wrong_field_is_read_or_named(name: str, shop: Path) -> None:
    data = json.loads((shop / name).read_text())
    first = 0 if isinstance(data, list) else next(iter(data))
    entry = data[first][0] if isinstance(data[first], list) else data[first]
    changes = [(key, value) for key in entry for value in WRONG] + [(None, value) for value in WRONG]
    for key, value in changes:
        changed = dict(entry, **{key: value}) if key else value
        data[first] = [changed] if isinstance(data[first], list) else changed
        (shop / name).write_text(json.dumps(data))
        error = error_of(lambda: make(shop).reset(seed=0))
        assert error is None or (isinstance(error, DataError) and str(shop) in str(error)), (key, value)


def test_webshop_files_that_are_not_the_published_ones_are_named(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match=r"(?s)items_shuffle\.json has \d+ bytes.*items_human_ins"):
        assert make(shop).unwrapped.task_ids
    for path in shop.glob("*.json"):
        monkeypatch.setitem(OFFICIAL, path.name, (path.stat().st_size, official.file_sha256(path)))
    with warnings.catch_warnings(action="error"):
        assert make(shop).unwrapped.task_ids
    text = (shop / "items_ins_v2.json").read_text()
    (shop / "items_ins_v2.json").write_text(text.replace("e", "a", 1))
    with pytest.raises(DataError, match=r"items_ins_v2\.json: its SHA-256") as caught:
        make(shop)
    assert "items_shuffle" not in str(caught.value)


def test_what_a_store_was_built_from_is_not_hashed_again(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in shop.glob("*.json"):
        monkeypatch.setitem(OFFICIAL, path.name, (path.stat().st_size, official.file_sha256(path)))
    monkeypatch.setattr(official, "STORE_ABOVE_BYTES", 0)
    load_official(shop)
    monkeypatch.setattr(official, "file_sha256", lambda path: pytest.fail("hashed again"))
    check_official(shop)


def test_a_damaged_store_is_named_or_built_again(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official, "STORE_ABOVE_BYTES", 0)
    titles = [product.title for product in load_official(shop).products]
    store = shop / "items_shuffle.store"
    for damage in DAMAGE.values():
        (store / "store.json").write_bytes(damage)
        assert [product.title for product in load_official(shop).products] == titles
    for array in list(store.glob("*.npy")):
        whole = array.read_bytes()
        array.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match="is damaged"):
            load_official(shop)
        array.write_bytes(whole)
