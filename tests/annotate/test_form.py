"""The form for raters in a real browser: nothing preset, keys, progress, two raters and their agreement."""

from pathlib import Path

import pytest

from hero_pl.annotate.files import read_rows
from hero_pl.annotate.form import write_form
from hero_pl.annotate.quality import QUESTIONS, cohen_kappa
from hero_pl.runs.jsonl import append_lines

NAMES = list(QUESTIONS)
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def row(number: int) -> dict:
    return {
        "id": f"row{number}",
        "task_id": f"shop/{number}",
        "turn": 1,
        "turns": 2,
        "reward": 0.5,
        "task": NASTY,
        "history": [{"action": NASTY, "sent": NASTY, "reply": NASTY}],
        "action": NASTY,
        "reply": NASTY,
        "diagnosis": NASTY,
        "confidence": "low",
        "next_action_target": {"name": NASTY},
        "labels": dict.fromkeys(NAMES),
    }


@pytest.fixture
def form(tab, tmp_path: Path):
    """The form of three rows."""
    rows, page = tmp_path / "turns.jsonl", tmp_path / "form.html"
    append_lines(rows, [row(number) for number in range(3)])
    assert write_form(rows, page) == 3
    tab.goto(page.as_uri())
    return tab


def name(form, rater: str) -> None:
    form.fill("#rater", rater)
    form.keyboard.press("Enter")


def press(form, keys: str) -> None:
    for key in keys:
        form.keyboard.press(key)


def saved(form, folder: Path) -> Path:
    with form.expect_download() as download:
        form.click("#save")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_no_answer_is_preset_and_none_can_be_given_without_a_name(form) -> None:
    assert form.locator("#questions").is_hidden()
    press(form, "y")
    name(form, "ann")
    assert form.locator("#questions").is_visible()
    assert form.locator("input[type=radio]").count() == 3 * len(NAMES)
    assert form.locator("input[type=radio]:checked").count() == 0
    assert form.inner_text("#told") == "row 1 of 3, 0 answered"
    assert form.locator("main img, main script").count() == 0


def test_keys_answer_and_move_and_only_finished_rows_are_saved(form, tmp_path) -> None:
    name(form, "ann")
    press(form, "yn-" + "y" * (len(NAMES) - 3))
    assert form.inner_text("#told") == "row 1 of 3, 1 answered"
    press(form, "jy")
    assert form.inner_text("#told") == "row 2 of 3, 1 answered, 1 in part (not saved)"
    form.keyboard.press("ArrowUp")  # back to the question that was answered
    press(form, "n")
    assert form.locator("input[type=radio]:checked").count() == 1
    path = saved(form, tmp_path)
    assert path.name == "turns.ann.labels.jsonl"
    (line,) = read_rows(path)
    assert (line["id"], line["rater"]) == ("row0", "ann")
    assert line["labels"] == {**dict.fromkeys(NAMES, True), NAMES[1]: False, NAMES[2]: None}


def test_a_second_rater_starts_empty_and_the_agreement_is_that_of_the_report(form, tmp_path) -> None:
    name(form, "ann")
    for number, first in enumerate("yyn"):
        press(form, first + "y" * (len(NAMES) - 1) + ("j" if number < 2 else ""))
    first = saved(form, tmp_path)
    name(form, "bob")
    assert form.locator("input[type=radio]:checked").count() == 0
    assert form.inner_text("#told") == "row 1 of 3, 0 answered"
    for number, answer in enumerate("ynn"):
        press(form, answer + "y" * (len(NAMES) - 1) + ("j" if number < 2 else ""))
    form.set_input_files("#other", first)
    form.locator("#agreement table").wait_for()
    cells = [line.split("\t") for line in form.inner_text("#agreement table").split("\n")]
    kappa = cohen_kappa([True, False, False], [True, True, False])
    assert cells[1] == [NAMES[0], "3", "2", f"{kappa:.3f}"]
    assert cells[2] == [NAMES[1], "3", "3", "–"]  # all answers are the same: not defined
    name(form, "ann")  # her answers are still there
    assert form.inner_text("#told").endswith("3 answered")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not a file of labeled rows"), ('{"id": "x"}', "has no row of this sample")],
)
def test_a_file_that_is_not_of_another_rater_is_refused(form, tmp_path, text, message) -> None:
    name(form, "ann")
    (tmp_path / "wrong.jsonl").write_text(text)
    form.set_input_files("#other", tmp_path / "wrong.jsonl")
    assert message in form.inner_text("#agreement p")
