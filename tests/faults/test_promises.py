"""The table of docs/reliability.md: each case has a guard and a test that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+|a) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
SOURCES = [path for top in ("hero_pl", "envs") for path in (ROOT / top).rglob("*.py")]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)


def exists(guard):
    """Whether a file, class, function, method or constant of this name is there."""
    if "/" in guard:
        return any(f"{top}/{guard.rstrip('/')}" in str(path) for path in SOURCES for top in ("hero_pl", "hero_envs"))
    if "=" in guard:
        return guard in TEXT
    *owners, name = guard.split(".")
    there = re.search(rf"^\s*(?:def|class) {name}\b|^{name}(?:: .+)? = ", TEXT, re.MULTILINE)
    return bool(there) and all(
        re.search(rf"^class {owner}\b", TEXT, re.MULTILINE) or owner_file(owner) for owner in owners
    )


def owner_file(name):
    return any(path.stem == name for path in SOURCES)


def test_every_case_from_1_to_27_has_a_row() -> None:
    assert {number for number, *_ in ROWS} == {"a", *(str(i) for i in range(1, 28))}


def test_every_guard_and_every_test_of_a_row_exists() -> None:
    for number, case, _, guards, tests in ROWS:
        named = re.findall(r"`([^`]+)`", guards)
        assert named, (number, case)
        assert [guard for guard in named if not exists(guard)] == [], (number, case)
        paths = re.findall(r"`(tests/[^`]+)`", tests)
        assert paths, (number, case)
        assert [path for path in paths if not (ROOT / path).exists()] == [], (number, case)
