"""Import the official TauBench data into the user's data folder: read, verify, store. Nothing is executed.

Two sources are accepted: a checkout of the original repository, whose Python task and tool files are parsed as syntax
trees of literals, and the JSON layout that this module writes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hero_envs.tau_bench.domain import SPLITS, TABLES
from hero_envs.tau_bench.manifest import COMMIT, content_sha256, stored_manifest
from hero_envs.tau_bench.tasks import task_from_json

MAX_BYTES = 64 * 2**20
"""Larger files are refused without reading them."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """Result of an import."""

    source: Path
    layout: str
    """``checkout`` or ``json``."""
    target: Path
    files: tuple[str, ...]
    """Paths below ``target``, all verified."""
    tasks: int

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks and {len(self.files)} files from {self.source} ({self.layout}) verified by SHA-256 "
            f"and written to {self.target}"
        )


class DataImportError(ValueError):
    """The source is not the official data; nothing was written."""


def import_official(source: Path, target: Path) -> ImportReport:
    """Read the official data, compare it with the stored hashes, and write it as JSON.

    Args:
        source: A checkout of the original repository (or a folder inside it that contains ``retail`` and
            ``airline``), or a folder in the JSON layout.
        target: Folder to write to; files of an earlier import are replaced.

    Raises:
        DataImportError: A file is missing, unreadable, or differs from the known state.
    """
    source, target = Path(source), Path(target)
    layout, roots = _locate(source)
    read = _read_checkout if layout == "checkout" else _read_json_layout
    contents = {name: read(name, roots[name]) for name in TABLES}
    problems = [problem for name, content in contents.items() for problem in _verify(name, content)]
    if problems:
        raise DataImportError(
            f"{source} is not the official TauBench data:\n  " + "\n  ".join(problems) + "\n"
            f"The hashes belong to commit {COMMIT} of sierra-research/tau-bench; check that commit out and try again."
        )
    written = []
    for name, content in contents.items():
        (target / name).mkdir(parents=True, exist_ok=True)
        for file, value in content.items():
            text = value if file == "policy.md" else _as_json(value)
            partial = target / name / f".{file}.partial"
            partial.write_bytes(text.encode())
            os.replace(partial, target / name / file)
            written.append(f"{name}/{file}")
    count = sum(len(value) for content in contents.values() for file, value in content.items() if "tasks_" in file)
    return ImportReport(source, layout, target, tuple(written), count)


def read_verified(name: str, folder: Path) -> dict[str, Any]:
    """Read the data of one domain that :func:`import_official` wrote, and verify it with the manifest.

    Raises:
        DataImportError: Files cannot be read or have other contents; the message lists them all.
    """
    content = _read_json_layout(name, folder)
    problems = _verify(name, content)
    if problems:
        raise DataImportError(
            f"{folder} does not hold the official TauBench data of commit {COMMIT}:\n  " + "\n  ".join(problems) + "\n"
            "Scores on other data are not comparable. Import it again: hero_pl import-tau-bench PATH"
        )
    return content


def _locate(source: Path) -> tuple[str, dict[str, Path]]:
    """The layout of a source, and the folder of each domain."""
    for root in (source, source / "tau_bench" / "envs", source / "envs"):
        folders = {name: root / name for name in TABLES}
        if all((folder / "wiki.md").is_file() for folder in folders.values()):
            return "checkout", folders
        if all((folder / "policy.md").is_file() for folder in folders.values()):
            return "json", folders
    raise DataImportError(
        f"{source} has neither the layout of a tau-bench checkout (tau_bench/envs/retail/wiki.md ...) nor of an "
        "earlier import (retail/policy.md ...). Give the folder of a clone of github.com/sierra-research/tau-bench."
    )


def _read_json_layout(name: str, folder: Path) -> dict[str, Any]:
    files = [f"{table}.json" for table in TABLES[name]] + [f"tasks_{split}.json" for split in SPLITS[name]]
    content: dict[str, Any] = {file: _json(folder / file) for file in [*files, "tools.json"]}
    return content | {"policy.md": _text(folder / "policy.md")}


def _read_checkout(name: str, folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = {f"{table}.json": _json(folder / "data" / f"{table}.json") for table in TABLES[name]}
    for split in SPLITS[name]:
        content[f"tasks_{split}.json"] = _tasks(folder / f"tasks_{split}.py")
    content["tools.json"] = _tool_schemas(folder / "tools")
    return content | {"policy.md": _text(folder / "wiki.md")}


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise DataImportError(f"{file} is larger than {MAX_BYTES} bytes, unlike the official files.")
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataImportError(f"{file} cannot be read: {error}") from error


def _json(file: Path) -> Any:
    try:
        return json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise DataImportError(f"{file} is not JSON: {error}") from error


def _syntax(file: Path) -> ast.Module:
    try:
        return ast.parse(_text(file), file.name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataImportError(f"{file} cannot be parsed: {error}") from error


def _literal(node: ast.AST, file: Path) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        line = getattr(node, "lineno", "?")
        raise DataImportError(f"{file}, line {line}: expected a literal; {error}") from error


def _tasks(file: Path) -> list[dict[str, Any]]:
    """The list of ``Task(...)`` calls with literal arguments that the file assigns to a name."""
    for statement in _syntax(file).body:
        value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.List) and value.elts and all(_is_call(node, "Task") for node in value.elts):
            return [_task(node, file) for node in value.elts if isinstance(node, ast.Call)]
    raise DataImportError(f"{file}: expected a list of Task(...) calls that is assigned to a name.")


def _is_call(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name and not node.args


def _task(node: ast.Call, file: Path) -> dict[str, Any]:
    fields: dict[str, Any] = {"outputs": []}
    for keyword in node.keywords:
        if keyword.arg == "actions" and isinstance(keyword.value, ast.List):
            fields["actions"] = [_action(action, file) for action in keyword.value.elts]
        elif keyword.arg in ("user_id", "instruction", "outputs"):
            fields[keyword.arg] = _literal(keyword.value, file)
    missing = {"user_id", "instruction", "actions"} - set(fields)
    if missing:
        raise DataImportError(f"{file}, line {node.lineno}: Task(...) without {', '.join(sorted(missing))}.")
    return {key: fields[key] for key in ("user_id", "instruction", "actions", "outputs")}


def _action(node: ast.expr, file: Path) -> dict[str, Any]:
    if not isinstance(node, ast.Call) or not _is_call(node, "Action"):
        raise DataImportError(f"{file}, line {node.lineno}: expected Action(name=..., kwargs=...).")
    fields = {keyword.arg: _literal(keyword.value, file) for keyword in node.keywords}
    if set(fields) != {"name", "kwargs"}:
        raise DataImportError(f"{file}, line {node.lineno}: Action(...) needs exactly name and kwargs.")
    return {"name": fields["name"], "kwargs": fields["kwargs"]}


def _tool_schemas(folder: Path) -> list[dict[str, Any]]:
    """The return value of each tool's ``get_info``, in the order of ``ALL_TOOLS``."""
    schemas: dict[str, Any] = {}
    for file in sorted(folder.glob("*.py")):
        for node in _syntax(file).body:
            if isinstance(node, ast.ClassDef):
                for value in _returned(node, "get_info"):
                    schemas[node.name] = _literal(value, file)
    file = folder / "__init__.py"
    for statement in _syntax(file).body:
        if (
            isinstance(statement, ast.Assign)
            and isinstance(statement.value, ast.List)
            and any(isinstance(name, ast.Name) and name.id == "ALL_TOOLS" for name in statement.targets)
        ):
            names = [node.id for node in statement.value.elts if isinstance(node, ast.Name)]
            missing = [name for name in names if name not in schemas]
            if missing:
                raise DataImportError(f"{folder}: no get_info() with a literal for {', '.join(missing)}.")
            return [schemas[name] for name in names]
    raise DataImportError(f"{file}: expected a list ALL_TOOLS.")


def _returned(node: ast.ClassDef, method: str) -> Iterator[ast.expr]:
    for function in node.body:
        if isinstance(function, ast.FunctionDef) and function.name == method:
            for statement in function.body:
                if isinstance(statement, ast.Return) and statement.value is not None:
                    yield statement.value


def _verify(name: str, content: dict[str, Any]) -> list[str]:
    """Differences from the stored manifest, as text."""
    known = stored_manifest()[name]
    problems = []
    for file, expected in known["files"].items():
        value = content[file]
        got = hashlib.sha256(value.encode()).hexdigest() if file == "policy.md" else content_sha256(value)
        if got != expected:
            problems.append(f"{name}/{file}: SHA-256 of the content is {got}, expected {expected}")
    for split, hashes in known["tasks"].items():
        file, got_tasks = f"tasks_{split}.json", dict[str, str]()
        try:
            for i, task in enumerate(content[file]):
                got_tasks[f"{split}-{i}"] = task_from_json(split, i, task).sha256()
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            problems.append(f"{name}/{file}: entry {len(got_tasks)} does not have the expected fields ({error!r})")
            continue
        wrong = [task_id for task_id in {**hashes, **got_tasks} if hashes.get(task_id) != got_tasks.get(task_id)]
        if wrong:
            problems.append(f"{name}: {len(wrong)} tasks of split {split} differ, the first is {wrong[0]}")
    return problems


def _as_json(value: Any) -> str:
    """One entry per line, so that files can be compared."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]\n"
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()) + "\n}\n"
