"""The path of one token in CONTRIBUTING.md is short and names only files that a training step runs."""

import re
import sys
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger

from hero_pl.callbacks.trajectories import TrajectoryLog

ROOT = Path(__file__).resolve().parents[1]
ONLY_DATA = {"types.py"}
"""File with data classes only: no code of it runs in a step."""


def rows_of_the_map() -> list[tuple[str, list[str]]]:
    """Number (empty if a file occurs again) and files of each row."""
    section = (
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## How data flows")[2].partition("\n## ")
    )
    matches = re.findall(r"^\| (\d*) ?\| (`.*?) \|", section[0], re.MULTILINE)
    return [(number, re.findall(r"`([\w/]+\.py)`", files)) for number, files in matches]


def test_the_map_of_one_token_has_at_most_18_files_and_5_returns() -> None:
    rows = rows_of_the_map()
    entered = [files[0] for number, files in rows if number]
    again = [name for number, files in rows if not number for name in files]
    assert [int(number) for number, _ in rows if number] == list(range(1, len(entered) + 1))
    assert len(entered) == len(set(entered)) <= 18
    assert set(again) <= set(entered)
    assert len(again) <= 5


def test_a_training_step_runs_every_file_of_the_map(tiny_module, tiny_data, fit, tmp_path) -> None:
    package, run = str(ROOT / "hero_pl") + "/", set()

    def note(frame, event, value):
        if event == "call" and frame.f_code.co_filename.startswith(package):
            run.add(frame.f_code.co_filename.removeprefix(package))

    sys.setprofile(note)
    try:
        fit(tiny_module(), tiny_data(), 1, callbacks=[TrajectoryLog()], logger=CSVLogger(tmp_path, "tiny"))
    finally:
        sys.setprofile(None)
    listed = {name for _, files in rows_of_the_map() for name in files}
    assert listed - ONLY_DATA <= run
    assert all((ROOT / "hero_pl" / name).is_file() for name in listed)
