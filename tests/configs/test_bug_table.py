"""The table of bugs names tests that exist. ``python tests/configs/test_bug_table.py`` fills the last two columns."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "bugs.md"
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
MISSING = "not covered yet"
ALSO = {
    21: [("tests/test_module.py", "test_a_run_resumed_at_any_step_equals_the_whole_run_bit_for_bit")],
}
"""Tests of a bug without its number in their name, which its mutation does not select."""


def functions():
    """``(file, name)`` of every test function."""
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE):
            yield str(file.relative_to(ROOT)), name


def covering(tests):
    """Tests by number of the bug; ``test_bug_15_and_16_...`` covers both."""
    tests_of = {}
    for file, name in tests:
        head = re.match(r"test_bug_(\d+(?:_and_\d+)*)_", name)
        for number in head.group(1).split("_and_") if head else ():
            tests_of.setdefault(int(number), []).append((file, name))
    for bug in bugs():
        if bug.select:
            chosen = [one for one in tests if one[0] == bug.tests and bug.select in one[1]]
            tests_of.setdefault(bug.number, []).extend(chosen)
    for number, also in ALSO.items():
        tests_of.setdefault(number, []).extend(one for one in also if one in tests)
    return tests_of


def test_the_table_has_every_bug_once_and_in_order() -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    numbers = [int(number) for number, *_ in rows]
    assert numbers == [bug.number for bug in bugs()] == sorted(set(numbers))


def test_every_named_test_exists_and_every_row_names_one_or_says_that_there_is_none() -> None:
    existing = set(functions())
    for number, what, _, tests in ROW.findall(PAGE.read_text(encoding="utf-8")):
        named = NAMED.findall(tests)
        assert set(named) <= existing, f"{number} ({what})"
        assert bool(named) != (tests == MISSING), f"{number} ({what})"


def bugs():
    """The bugs that ``tests/mutations/run.py`` puts in, by number."""
    return runpy.run_path(str(ROOT / "tests" / "mutations" / "run.py"))["BUGS"]


def test_every_bug_can_still_be_put_in_where_its_mutation_says() -> None:
    for bug in bugs():
        for old, _ in bug.change:
            assert (ROOT / bug.file).read_text(encoding="utf-8").count(old) == 1, (bug.number, old)


def fill() -> None:
    """Fill the last two columns: the mutation of each bug, and its tests."""
    tests_of = covering(list(functions()))
    put_in = {bug.number: bug.put_in_as for bug in bugs()}

    def row(match: re.Match[str]) -> str:
        tests = dict.fromkeys(tests_of.get(int(match[1]), []))
        named = "<br>".join(f"`{f}::{n}`" for f, n in tests) or MISSING
        return f"| {match[1]} | {match[2]} | {put_in.get(int(match[1]), '')} | {named} |"

    PAGE.write_text(ROW.sub(row, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    fill()
