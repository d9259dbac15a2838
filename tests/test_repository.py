"""Rules of the repository: tracked files, documentation, length of files, imports."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("hero_pl", "envs/hero_envs")
LONGEST = 400
LONGER_FOR_A_REASON = {
    "tests/conformance/loss_vectors.py": "one stand-alone script with one check per family of the vector files",
}
"""Path -> why the file may have more lines (a table or a specification)."""

# Put together from parts, so that this file does not contain what it looks for.
MACHINE_PATHS = [f"/{name}/" for name in ("work", "root", "tmp", "home", "Users", "opt")]
REGISTRY_HOSTS = [
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "npmjs" + ".org",
    "download" + ".pytorch.org",
    "--extra" + "-index-url",
]
READABLE = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".jinja", ".html", ".css", ".js", ".cfg", ".csv", ""}


def tracked() -> list[Path]:
    """Tracked files that exist; every file where the tree is not a git checkout."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_tracked_file_names_a_machine_path_or_a_registry() -> None:
    pattern = re.compile(
        "|".join(
            [rf"(?<![\w.~}}]){re.escape(path)}" for path in MACHINE_PATHS] + [re.escape(h) for h in REGISTRY_HOSTS]
        )
    )
    problems = []
    for path in tracked():
        if path.suffix in READABLE:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if match := pattern.search(line):
                    problems.append(f"{name_of(path)}:{number}: {match[0]}")
    assert problems == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        name_of(path)
        for path in python_files(*PACKAGES, "benchmarks")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_no_file_grows_beyond_one_idea() -> None:
    lengths = {
        name_of(path): len(path.read_text().splitlines()) for path in python_files(*PACKAGES, "benchmarks", "tests")
    }
    too_long = {
        name: length for name, length in lengths.items() if length > LONGEST and name not in LONGER_FOR_A_REASON
    }
    assert too_long == {}, f"split these files (at most {LONGEST} lines), or give a reason in LONGER_FOR_A_REASON"


UNSAFE = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "pickle.load": "a pickle runs code",
    "pickle.loads": "a pickle runs code",
    "yaml.load": "use yaml.safe_load",
    "os.system": "a shell reads the text",
}
"""Calls by name, and why the packages make none of them."""
UNSAFE_ARGUMENTS = {("weights_only", False), ("shell", True)}


def test_nothing_that_is_read_can_become_code() -> None:
    problems = []
    for path in python_files(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                given = {(one.arg, one.value.value) for one in node.keywords if isinstance(one.value, ast.Constant)}
                name = ast.unparse(node.func)
                if name in UNSAFE or given & UNSAFE_ARGUMENTS:
                    problems.append(f"{name_of(path)}:{node.lineno}: {name}")
                if name == "torch.load" and ("weights_only", True) not in given:
                    problems.append(f"{name_of(path)}:{node.lineno}: torch.load without weights_only=True")
    assert problems == []


def test_what_needs_only_the_dialect_takes_no_policy() -> None:
    """Chat template, parser and context length are in a ``hero_pl.chat.dialect.Dialect``, which needs no weights."""
    problems = []
    for path in python_files("hero_pl"):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or all(one.arg != "policy" for one in function.args.args):
                continue
            inside = list(ast.walk(function))
            used = sum(isinstance(node, ast.Name) and node.id == "policy" for node in inside)
            read = [n.attr for n in inside if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "policy"]
            if used == len(read) and read and set(read) <= {"template", "parser", "max_length", "dialect"}:
                problems.append(f"{name_of(path)}: {function.name}")
    assert problems == []


def module_of(path: Path) -> str:
    """Dotted name of a file below the repository or ``envs``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[parts[0] == "envs" :]).removesuffix(".__init__")


def imported_by(path: Path, modules: Collection[str]) -> set[str]:
    """The modules that a file imports anywhere, also in functions and for the type checker only."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{one.name}" for one in node.names}
            imported |= {name if name in modules else node.module for name in below}
    return imported & set(modules) - {module_of(path)}


def circle_in(imports: Mapping[str, Collection[str]]) -> list[str]:
    """Modules of a cycle of imports, or none: the rest after repeatedly removing modules that import no other."""
    left = {name: set(others) for name, others in imports.items()}
    while done := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in done}
    walked: list[str] = []
    name = min(left, default="")
    while name and name not in walked:
        walked.append(name)
        name = min(left[name] & left.keys())
    return walked[walked.index(name) :] if name else []


def test_bug_200_no_files_import_each_other_in_a_circle() -> None:
    files = {module_of(path): path for path in python_files(*PACKAGES)}
    assert circle_in({name: imported_by(path, files) for name, path in files.items()}) == []


def test_a_circle_is_found_with_its_files() -> None:
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == ["b", "c"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_every_exception_to_the_length_is_still_needed() -> None:
    present = [name for name in LONGER_FOR_A_REASON if (ROOT / name).is_file()]
    assert [name for name in present if len((ROOT / name).read_text().splitlines()) <= LONGEST] == []


def test_every_configuration_begins_with_its_command() -> None:
    wrong = {}
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        first = path.read_text().partition("\n")[0]
        if not re.match(rf"# (hero_pl|python) .*\b{re.escape(name_of(path))}\b", first):
            wrong[name_of(path)] = first
    assert wrong == {}, "the first line of a configuration is a comment with the command that uses it"


def test_both_packages_are_typed() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)


def test_the_license_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert re.search(r"Apache License\s+Version 2\.0, January 2004", text)
    assert "END OF TERMS AND CONDITIONS" in text


def test_tools_are_configured_in_one_place() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert {"ruff", "mypy", "codespell", "importlinter", "pytest"} <= set(settings["tool"])
    assert settings["tool"]["mypy"]["strict"] is True
    assert settings["project"]["license"] == "Apache-2.0"


def test_at_most_eleven_direct_dependencies() -> None:
    # Ten, and typer for the command line: transformers and huggingface_hub install it anyway.
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert len(dependencies) <= 11


def test_the_readme_links_and_shows_what_exists_and_needs_no_checkout() -> None:
    text = (ROOT / "README.md").read_text()
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    raw = repository.replace("github.com", "raw.githubusercontent.com")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [link for link in links if "://" not in link] == []  # a package index has no files beside the page
    own = [re.sub(rf"^(?:{raw}/main|{repository}/(?:blob|tree)/main)/", "", link) for link in links]
    own = [name for name in own if "://" not in name]
    assert own
    assert [name for name in own if not (ROOT / name.partition("#")[0]).exists()] == []


def package_name(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def test_every_dependency_has_one_exact_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for extra in ("lora", "plot", "dev") for one in extras[extra])]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [
        line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)
    ] == []  # no ranges, hosts, local versions
    pinned = [package_name(line) for line in lines]
    assert len(pinned) == len(set(pinned))
    assert {package_name(one) for one in wanted} - set(pinned) <= {"hero-pl"}
    assert "torch==2.13.0" in lines


def test_ci_runs_the_commands_of_the_readme() -> None:
    readme, script = ((ROOT / name).read_text() for name in ("README.md", ".ci/run"))
    commands = [line for line in readme.splitlines() if line.startswith("python -m pip install -c constraints.txt")]
    assert len(commands) >= 2, "the README gives the command for the quickstart and the one for the tests"
    missing = [part for line in commands for part in map(str.strip, line.split("&&")) if part not in script]
    assert missing == []


@pytest.mark.parametrize("name", [".ci/run", ".ci/newest"])
def test_scripts_are_executable_and_readable_by_bash(name: str) -> None:
    path = ROOT / name
    assert path.stat().st_mode & 0o100
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True, check=False).stderr == ""


def test_actions_are_pinned_by_hash() -> None:
    uses = [
        line.split("uses:")[1].strip()
        for path in (ROOT / ".github").rglob("*.yml")
        for line in path.read_text().splitlines()
        if "uses:" in line
    ]
    assert [one for one in uses if not re.match(r"[\w./-]+@[0-9a-f]{40}\b", one)] == []
