"""The importer reads literals only, compares hashes, and writes only what it could verify."""

import json
import shutil
from pathlib import Path

import pytest

from hero_envs.tau_bench.domain import SPLITS, TABLES, Domain
from hero_envs.tau_bench.importer import DataImportError, import_official
from hero_envs.tau_bench.manifest import build_manifest, stored_manifest
from hero_envs.tau_bench.official import load_official

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / ".." / "shared" / "data" / "taubench"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the official data lies in shared/ beside the repository")


def write_checkout(root: Path) -> Path:
    """A folder with the structure of the original repository, made from the JSON files."""
    for name in TABLES:
        folder = root / "tau_bench" / "envs" / name
        (folder / "data").mkdir(parents=True)
        (folder / "tools").mkdir()
        (folder / "wiki.md").write_bytes((DATA / name / "policy.md").read_bytes())
        for table in TABLES[name]:
            value = json.loads((DATA / name / f"{table}.json").read_text())
            (folder / "data" / f"{table}.json").write_text(json.dumps(value, indent=4))
        for split in SPLITS[name]:
            tasks = json.loads((DATA / name / f"tasks_{split}.json").read_text())
            lines = ["from tau_bench.types import Action, Task", "", "TASKS = ["]
            for task in tasks:
                actions = ", ".join(f"Action(name={a['name']!r}, kwargs={a['kwargs']!r})" for a in task["actions"])
                lines.append(
                    f"    Task(annotator={task['annotator']!r}, user_id={task['user_id']!r}, "
                    f"instruction={task['instruction']!r}, actions=[{actions}], outputs={task['outputs']!r}),"
                )
            (folder / f"tasks_{split}.py").write_text("\n".join([*lines, "]", ""]))
        names = []
        for schema in json.loads((DATA / name / "tools.json").read_text()):
            tool = schema["function"]["name"]
            names.append("".join(part.title() for part in tool.split("_")))
            (folder / "tools" / f"{tool}.py").write_text(
                f"class {names[-1]}(Tool):\n    @staticmethod\n    def get_info():\n        return {schema!r}\n"
            )
        (folder / "tools" / "__init__.py").write_text(f"ALL_TOOLS = [{', '.join(names)}]\n")
    return root


def parts(domain: Domain) -> tuple[object, ...]:
    return domain.base.tables, domain.tool_schemas, domain.policy, domain.splits


@needs_data
def test_a_checkout_is_imported_and_plays_as_the_json_layout_does(tmp_path: Path) -> None:
    report = import_official(write_checkout(tmp_path / "source"), tmp_path / "target")
    assert (report.layout, report.tasks, len(report.files)) == ("checkout", 685, 14)
    for name in TABLES:
        assert parts(load_official(name, tmp_path / "target")) == parts(load_official(name, DATA))


@needs_data
def test_an_import_can_be_imported_again(tmp_path: Path) -> None:
    assert import_official(DATA, tmp_path / "one").layout == "json"
    assert import_official(tmp_path / "one", tmp_path / "two").tasks == 685
    for file in (tmp_path / "one").rglob("*.json"):
        assert file.read_bytes() == (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes()


@needs_data
def test_code_in_a_task_file_is_refused_and_not_executed(tmp_path: Path) -> None:
    root = write_checkout(tmp_path / "source")
    canary = tmp_path / "canary"
    file = root / "tau_bench" / "envs" / "airline" / "tasks_test.py"
    file.write_text(
        f"open({str(canary)!r}, 'w').close()\n"
        f"TASKS = [Task(user_id='x', instruction=open({str(canary)!r}, 'w').name, actions=[], outputs=[])]\n"
    )
    with pytest.raises(DataImportError, match="expected a literal"):
        import_official(root, tmp_path / "target")
    assert not canary.exists()
    assert not (tmp_path / "target").exists()


@needs_data
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("retail/tasks_test.py", "Yusuf", "Josef"),
        ("retail/data/orders.json", "pending", "delivered"),
        ("airline/wiki.md", "airline", "railway"),
        ("airline/tools/think.py", "think", "guess"),
    ],
)
def test_anything_that_differs_from_the_known_state_is_refused(tmp_path: Path, file: str, old: str, new: str) -> None:
    root = write_checkout(tmp_path / "source")
    changed = root / "tau_bench" / "envs" / file
    changed.write_text(changed.read_text().replace(old, new, 1))
    with pytest.raises(DataImportError, match="check that commit out"):
        import_official(root, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def imported(root: Path) -> Path:
    """A copy of one domain as the importer writes it."""
    shutil.copytree(DATA / "airline", root / "airline")
    return root


@needs_data
@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("users.json", "gold", "silver", "airline/users.json"),
        ("policy.md", "airline", "railway", "airline/policy.md"),
        ("tasks_test.json", "You", "They", "1 tasks of split test differ, the first is test-"),
        ("flights.json", "{", "", "flights.json is not JSON"),
        ("flights.json", "{", "[" * 100_000, "flights.json is not JSON"),
    ],
)
def test_a_file_that_changed_after_the_import_is_named_when_it_is_read(
    tmp_path: Path, file: str, old: str, new: str, named: str
) -> None:
    changed = imported(tmp_path) / "airline" / file
    changed.write_text(changed.read_text("utf-8").replace(old, new, 1), "utf-8")
    with pytest.raises(DataImportError, match=named):
        load_official("airline", tmp_path)


def test_a_folder_that_is_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataImportError, match="neither the layout"):
        import_official(tmp_path, tmp_path / "target")


def test_without_the_data_the_error_names_the_import_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="hero_pl import-tau-bench PATH"):
        load_official("retail", tmp_path)


@needs_data
@pytest.mark.parametrize("name", list(TABLES))
def test_the_stored_manifest_is_what_the_data_gives(name: str) -> None:
    assert build_manifest(load_official(name, DATA)) == stored_manifest()[name]


def test_the_manifest_has_all_tasks_and_disjoint_splits() -> None:
    retail, airline = stored_manifest()["retail"], stored_manifest()["airline"]
    assert {split: len(tasks) for split, tasks in retail["tasks"].items()} == {"train": 500, "dev": 20, "test": 115}
    assert {split: len(tasks) for split, tasks in airline["tasks"].items()} == {"test": 50}
    hashes = [sha for tasks in (*retail["tasks"].values(), *airline["tasks"].values()) for sha in tasks.values()]
    assert len(set(hashes)) == 685
