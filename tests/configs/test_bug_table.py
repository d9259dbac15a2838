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
    17: [("tests/losses/test_normalize.py", "test_bug_18_two_ranks_give_what_one_rank_gives_even_if_one_is_empty")],
    21: [("tests/test_module.py", "test_a_run_resumed_at_any_step_equals_the_whole_run_bit_for_bit")],
    33: [("tests/test_module.py", "test_the_first_step_samples_with_the_weights_it_updates")],
    66: [("tests/cli/test_configs.py", "test_yaml_that_seems_to_say_something_else_is_refused_with_file_and_line")],
    67: [("tests/cli/test_configs.py", "test_a_number_that_is_not_finite_and_decimal_is_refused")],
    68: [("tests/cli/test_configs.py", "test_a_scalar_is_what_it_looks_like")],
    69: [("tests/cli/test_configs.py", "test_a_name_is_no_path")],
    70: [("tests/cli/test_configs.py", "test_what_is_written_is_read_again_as_it_was")],
    71: [("tests/cli/test_lightning.py", "test_rollout_takes_the_options_of_fit_in_their_order")],
    72: [("tests/cli/test_components.py", "test_two_classes_of_one_name_are_refused_with_both_places")],
    73: [
        ("tests/cli/test_components.py", "test_a_new_file_is_listed_and_its_short_name_trains_without_touching_another")
    ],
    74: [("tests/cli/test_main.py", "test_the_arguments_of_an_environment_are_yaml")],
    75: [("tests/cli/test_main.py", "test_an_interrupted_command_says_so_in_one_line_and_exits_with_130")],
    131: [
        (
            "tests/faults/test_environments.py",
            "test_a_wrong_answer_breaks_its_episode_and_names_environment_task_turn_and_field",
        )
    ],
    134: [
        ("tests/faults/test_environments.py", "test_a_step_that_raises_once_is_played_again_and_the_run_is_the_same")
    ],
    135: [
        (
            "tests/faults/test_environments.py",
            "test_a_task_that_cannot_be_started_is_put_in_quarantine_and_stays_there_when_resumed",
        )
    ],
    136: [
        (
            "tests/faults/test_environments.py",
            "test_a_task_that_cannot_be_started_is_put_in_quarantine_and_stays_there_when_resumed",
        )
    ],
    139: [
        ("tests/faults/test_environments.py", "test_a_step_that_always_raises_breaks_its_episode_which_teaches_nothing")
    ],
}
"""Tests of a bug that do not carry its number."""


def functions():
    """``(file, name)`` of every test function."""
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE):
            yield str(file.relative_to(ROOT)), name


def covering(tests):
    """Tests by number of the bug; ``test_bug_15_and_16_...`` covers both."""
    found = {}
    for file, name in tests:
        head = re.match(r"test_bug_(\d+(?:_and_\d+)*)_", name)
        for number in head.group(1).split("_and_") if head else ():
            found.setdefault(int(number), []).append((file, name))
    for number, also in ALSO.items():
        found.setdefault(number, []).extend(one for one in also if one in tests)
    return found


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
    """The bugs that ``tests/mutations/run.py`` puts in."""
    return runpy.run_path(str(ROOT / "tests" / "mutations" / "run.py"))["BUGS"]


def test_every_bug_can_still_be_put_in_where_its_mutation_says() -> None:
    for bug in bugs():
        for old, _ in bug.changes:
            assert (ROOT / bug.file).read_text(encoding="utf-8").count(old) == 1, (bug.number, old)


def fill() -> None:
    """Write how the bugs are put in, and the tests that exist, into the last columns."""
    found = covering(list(functions()))
    put_in = {bug.number: bug.put_in_as for bug in bugs()}

    def row(match: re.Match[str]) -> str:
        tests = dict.fromkeys(found.get(int(match[1]), []))
        named = "<br>".join(f"`{f}::{n}`" for f, n in tests) or MISSING
        return f"| {match[1]} | {match[2]} | {put_in.get(int(match[1]), '')} | {named} |"

    PAGE.write_text(ROW.sub(row, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    fill()
