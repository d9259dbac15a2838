"""Case 25: names stay below the folder of all runs, and a folder holds one run."""

import csv
import os

import pytest

from hero_pl.callbacks.run_folder import cut_back, locked, sizes
from hero_pl.callbacks.run_logger import RunLogger
from hero_pl.errors import ConfigError

HOSTILE = ["../../x", "/etc/x", "a/../../x", "a//b", ".", "..", "a\0b", "x" * 5000, "[/red]", "a\\b", "\x1b[2J", "a\nb"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("key", ["name", "version"])
def test_a_name_that_is_no_folder_below_is_refused_with_the_cure(key, text, tmp_path):
    with pytest.raises(ConfigError, match=rf"trainer\.logger\.init_args\.{key}=.*(expected|at most)"):
        RunLogger(str(tmp_path), **{key: text})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["quickstart", "shop/hero-seed3", "lr=0.1, a_b.c+d@e", "grün"])
def test_names_that_people_give_are_taken(text, tmp_path):
    logger = RunLogger(str(tmp_path), text)
    assert logger.log_dir == str(tmp_path / text / "version_0")


def test_a_link_that_leads_out_is_refused(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "runs" / "name")
    with pytest.raises(ConfigError, match="lies outside"):
        _ = RunLogger(str(tmp_path / "runs"), "name").log_dir
    assert list((tmp_path / "elsewhere").iterdir()) == []


def logged(logger, *rows):
    for step, row in enumerate(rows):
        logger.log_metrics(row, step)
    logger.save()
    logger.finalize("success")


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(tmp_path):
    logged(RunLogger(str(tmp_path), "same", 0), {"loss": 1.0})
    before = (tmp_path / "same" / "version_0" / "metrics.csv").read_bytes()
    with pytest.raises(ConfigError, match=r"already contains a run \(metrics\.csv\).*--resume auto"):
        logged(RunLogger(str(tmp_path), "same", 0), {"loss": 2.0})
    assert (tmp_path / "same" / "version_0" / "metrics.csv").read_bytes() == before


def test_a_resumed_logger_appends_to_its_rows_also_with_new_columns(tmp_path):
    logged(RunLogger(str(tmp_path), "same"), {"loss": 1.0}, {"loss": 0.5})
    again = RunLogger(str(tmp_path), "same")
    again.go_on_in(tmp_path / "same" / "version_0")
    logged(again, {"loss": 0.25, "turns": 3.0})
    rows = rows_of(tmp_path / "same" / "version_0" / "metrics.csv")
    assert [(row["loss"], row["turns"]) for row in rows] == [("1.0", ""), ("0.5", ""), ("0.25", "3.0")]


def test_two_processes_do_not_write_to_one_run(tmp_path):
    pytest.importorskip("fcntl")
    with locked(tmp_path), pytest.raises(ConfigError, match="Another process is writing"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_files_are_truncated_to_the_checkpoint_with_a_message(tmp_path):
    (tmp_path / "eval.jsonl").write_text('{"a":1}\n', encoding="utf-8")
    (tmp_path / "metrics.csv").write_text("loss\n1\n2\n", encoding="utf-8")
    at = sizes(tmp_path)
    with (tmp_path / "eval.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"a":2}\n{"a":')
    (tmp_path / "events.jsonl").write_text("{}\n", encoding="utf-8")
    (tmp_path / "metrics.csv").write_text("loss,turns\n1,\n2,\n3,4\n5,", encoding="utf-8")  # a torn last row
    notes = list(cut_back(tmp_path, at))
    assert (tmp_path / "eval.jsonl").read_text(encoding="utf-8") == '{"a":1}\n'
    assert (tmp_path / "events.jsonl").read_text(encoding="utf-8") == ""
    assert rows_of(tmp_path / "metrics.csv") == [{"loss": "1", "turns": ""}, {"loss": "2", "turns": ""}]
    assert len(notes) == 3
    assert "eval.jsonl: 1 lines written after the checkpoint were removed (13 bytes)" in notes[1] + notes[0]


def test_a_file_that_lost_lines_of_the_run_is_named(tmp_path):
    (tmp_path / "eval.jsonl").write_text("{}\n{}\n", encoding="utf-8")
    at = sizes(tmp_path)
    (tmp_path / "eval.jsonl").write_text("{}\n", encoding="utf-8")
    assert "3 bytes shorter than at the checkpoint" in next(cut_back(tmp_path, at))
