"""Puts the silent bugs of ``docs/bugs.md`` into a copy of the package and checks that a test fails for each of them.

    python tests/mutations/run.py                  all bugs, about half an hour on one core
    python tests/mutations/run.py runs teacher     those of bugs/runs.toml and bugs/teacher.toml
    python tests/mutations/run.py 9 31             those with these numbers

The status is 1 if the tests pass with a bug, or if the line that it changes is no longer there.

A bug is a table ``bug`` of a file in ``bugs/``, one file per package. ``file`` is changed: each ``change`` replaces the
text ``old``, which stands there once, by ``new``. Then ``tests`` must fail, among them those that ``select`` chooses.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import tomllib
from dataclasses import dataclass
from pathlib import Path

# what all tests need, imported once: importing it takes longer than most of them
import hypothesis  # noqa: F401
import lightning  # noqa: F401
import pytest
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600
"""Longest time of the tests of one bug; tests that take longer have not noticed it."""


@dataclass(frozen=True)
class Bug:
    """One bug: what is put in, where, and the tests that must fail."""

    number: int
    put_in_as: str
    file: str
    change: tuple[tuple[str, str], ...]
    tests: str
    package: str
    """Name of the file in ``bugs/``, without its suffix."""
    select: str = ""
    """Expression for ``pytest -k``; default: tests named after the bug."""


def read(path: Path) -> list[Bug]:
    """The bugs of one file."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["bug"]
    changes = [tuple((change["old"], change["new"]) for change in row.pop("change")) for row in rows]
    return [Bug(change=change, package=path.stem, **row) for row, change in zip(rows, changes, strict=True)]


BUGS = sorted(
    (bug for path in Path(__file__).parent.glob("bugs/*.toml") for bug in read(path)),
    key=lambda bug: bug.number,
)


def verdict(bug: Bug, tree: Path) -> str:
    """``noticed``, or what went wrong."""
    path = tree / bug.file
    source = changed = path.read_text(encoding="utf-8")
    for old, new in bug.change:
        if changed.count(old) != 1:
            return f"DOES NOT APPLY: {bug.file} has {changed.count(old)} times {old!r}"
        changed = changed.replace(old, new)
    path.write_text(changed, encoding="utf-8")
    select = bug.select or f"bug_{bug.number:02} or and_{bug.number:02}"
    log = tree.parent / "log.txt"
    try:
        failed = run_tests(["-q", "-x", "--no-header", "-p", "no:cacheprovider", bug.tests, "-k", select], tree, log)
    finally:
        path.write_text(source, encoding="utf-8")
    output = log.read_text(encoding="utf-8")
    lines = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR")) and "::" in line]
    names = [line.partition("::")[2].partition(" ")[0] for line in lines]
    return f"noticed by {names[0]}" if failed and names else f"SURVIVED\n{output[-2000:]}"


def run_tests(arguments: list[str], tree: Path, log: Path) -> bool:
    """Whether a test fails in a process of its own, which has the large libraries already imported."""
    child = os.fork()
    if child == 0:
        os.chdir(tree)
        sys.path[:0] = [str(tree), str(tree / "envs")]
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])  # for tests that start a process
        sys.dont_write_bytecode = True
        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            code = int(pytest.main(arguments))
            sys.stdout.flush()
            os._exit(code)
    timer = threading.Timer(LIMIT_S, os.kill, (child, signal.SIGKILL))
    timer.start()
    status = os.waitpid(child, 0)[1]
    timer.cancel()
    return os.waitstatus_to_exitcode(status) == int(pytest.ExitCode.TESTS_FAILED)


def chosen(words: list[str]) -> list[Bug]:
    """The bugs with these numbers and those of these files; all if no word is given."""
    known = {str(bug.number) for bug in BUGS} | {bug.package for bug in BUGS}
    if unknown := sorted(set(words) - known):
        packages = ", ".join(sorted({bug.package for bug in BUGS}))
        sys.exit(f"no bug has the number or the file {', '.join(unknown)}; the files are: {packages}")
    return [bug for bug in BUGS if not words or str(bug.number) in words or bug.package in words]


def main(words: list[str]) -> int:
    """Put the chosen bugs in, one by one; the exit status."""
    bugs = chosen(words)
    torch.set_num_threads(1)
    transformers.Qwen3ForCausalLM  # noqa: B018 - imported when it is touched
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        for part in ("hero_pl", "envs", "tests", "configs", "docs", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            tree.mkdir(exist_ok=True)
            copy(ROOT / part, tree / part)
        if (ROOT.parent / "shared").is_dir():  # where tests look for the vector files
            (Path(folder) / "shared").symlink_to(ROOT.parent / "shared", target_is_directory=True)
        unnoticed = 0
        for bug in bugs:
            result = verdict(bug, tree)
            unnoticed += not result.startswith("noticed")
            print(f"{bug.number:2} {bug.put_in_as}: {result}", flush=True)
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
