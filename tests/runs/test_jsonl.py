"""Lines are written completely or not at all, and a file with a torn line stays readable."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hero_pl.errors import HeroError
from hero_pl.runs.jsonl import TornLineWarning, append_lines, read_lines


def rows(path: Path) -> list[dict[str, object]]:
    return [row for _, row in read_lines(path)]


def test_appending_twice_keeps_the_order(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "x.jsonl"
    assert append_lines(path, [{"a": 1}, {"a": 2}]) == 2
    assert append_lines(path, [{"a": 3}]) == 1
    assert rows(path) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_outside_text_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    text = "line\nbreak \u2028 \ud800 half a pair, \u00fcber \x00 \r\n"
    append_lines(path, [{"text": text}])
    assert rows(path) == [{"text": text}]
    assert path.read_bytes().count(b"\n") == 1


def test_a_torn_last_line_is_reported_with_its_place_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}\n{"a":')
    with pytest.warns(TornLineWarning, match=r"unfinished \(5 bytes at byte 16 after 2 complete lines\)"):
        assert rows(path) == [{"a": 1}, {"a": 2}]


def test_appending_after_a_torn_line_never_merges_two_records(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":"' + b"x" * 100_000)
    with pytest.warns(TornLineWarning, match="removed before appending"):
        append_lines(path, [{"a": 3}])
    assert path.read_bytes() == b'{"a":1}\n{"a":3}\n'


def test_a_whole_last_line_without_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}')
    assert rows(path) == [{"a": 1}, {"a": 2}]
    append_lines(path, [{"a": 3}])
    assert path.read_bytes() == b'{"a":1}\n{"a":2}\n{"a":3}\n'


def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    with pytest.raises(HeroError, match="is not a JSON line"):
        append_lines(path, [{"a": 1}])
    assert path.read_text() == "dear diary"


@pytest.mark.parametrize("broken", [b'{"a":', b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_malformed_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a":1}\n' + broken + b'\n{"a":2}\n')
    with pytest.raises(HeroError, match=r"x\.jsonl, line 2 \(byte 8\)"):
        rows(path)


def test_what_json_cannot_hold_is_refused_and_earlier_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with pytest.raises(HeroError, match="line 2 of this batch is not JSON"):
        append_lines(path, [{"a": 1}, {"a": float("nan")}])
    assert rows(path) == [{"a": 1}]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HeroError, match="nowhere"):
        rows(tmp_path / "nowhere.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_is_named() -> None:
    with pytest.raises(HeroError, match=r"/dev/full: cannot append line 1 .*No space left"):
        append_lines(Path("/dev/full"), [{"a": 1}])


FILL = """
import resource, sys
from pathlib import Path
from hero_pl.errors import HeroError
from hero_pl.runs.jsonl import append_lines
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (250, resource.RLIM_INFINITY))
try:
    append_lines(path, [{"number": i, "text": "x" * 40} for i in range(9)])
except HeroError as error:
    print(error)
"""


def test_a_disk_that_fills_up_loses_nothing_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    append_lines(path, [{"before": True}])
    done = subprocess.run(  # in a process of its own, for the limit on the size of files cannot be raised again
        [sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, check=True
    )
    # 16 bytes before, then 63 bytes a line: three fit under 250, and the fourth is cut off again.
    line = len(json.dumps({"number": 0, "text": "x" * 40}, separators=(",", ":"))) + 1
    assert line == 63
    assert path.stat().st_size == 16 + 3 * line
    assert str(path) in done.stdout
    assert "Written: 3 lines of this batch; the file has only complete lines (205 bytes)" in done.stdout
    assert "Free space" in done.stdout
    append_lines(path, [{"after": True}])
    assert [row.get("number") for row in rows(path)] == [None, 0, 1, 2, None]
