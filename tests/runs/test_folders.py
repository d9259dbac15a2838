"""A run is found by its file, by its folder and by a folder above it."""

from pathlib import Path

import pytest

from hero_pl.errors import ConfigError
from hero_pl.runs.folders import MOST_LISTED, must_be_new, must_be_writable, must_exist, one_run


def run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "trajectories.jsonl").touch()
    return folder / "trajectories.jsonl"


def test_one_run_is_found_by_file_by_folder_and_from_above(tmp_path: Path) -> None:
    path = run(tmp_path / "quickstart" / "version_0")
    for given in (path, path.parent, path.parent.parent, tmp_path):
        assert one_run(given) == path
    run(path.parent / "again")  # a run folder is that run, whatever lies below it
    assert one_run(path.parent) == path


def test_several_runs_are_listed_and_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"contains no trajectories\.jsonl"):
        one_run(tmp_path)
    for i in range(MOST_LISTED + 2):
        run(tmp_path / f"version_{i:02}")
    with pytest.raises(ConfigError, match=f"contains {MOST_LISTED + 2} runs") as caught:
        one_run(tmp_path)
    assert str(tmp_path / "version_00") in str(caught.value)
    assert str(caught.value).endswith("and 2 more")


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "some.jsonl").touch()
    assert one_run(tmp_path / "some.jsonl") == tmp_path / "some.jsonl"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/quickstrat", r"There is no folder .*quickstrat\. Did you mean .*quickstart\?"),
        ("gone.jsonl", r"There is no file .*gone\.jsonl\."),
    ],
)
def test_a_run_that_is_not_there_is_called_that(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    with pytest.raises(ConfigError, match=message):
        one_run(tmp_path / name)


def test_a_folder_in_the_place_of_a_file_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder; expected a file"):
        must_exist(tmp_path, "file", "Name a YAML file.")


def test_bug_753_and_863_the_folder_of_an_output_is_made_and_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    must_be_writable(tmp_path / "new" / "er" / "h.json", "Sorry.")
    assert (tmp_path / "new" / "er").is_dir()
    (tmp_path / "file").touch()
    must_be_writable(tmp_path / "file", "Sorry.")  # an existing one is replaced
    with pytest.raises(ConfigError, match=r"er is a folder; expected a file\. Sorry\."):
        must_be_writable(tmp_path / "new" / "er", "Sorry.")
    with pytest.raises(ConfigError, match=r"file is a file; expected a folder\. Sorry\."):
        must_be_writable(tmp_path / "file" / "below" / "h.json", "Sorry.")
    with pytest.raises(ConfigError, match=r"h\.foo: expected a name that ends with \.png or \.svg\. Sorry\."):
        must_be_writable(tmp_path / "h.foo", "Sorry.", (".png", ".svg"))
    for check in (must_be_writable, must_be_new):
        for long in (tmp_path / ("a" * 5000), tmp_path / ("a" * 5000) / "b"):
            with pytest.raises(ConfigError, match=r"aaa cannot be opened: File name too long\. Sorry\."):
                check(long, "Sorry.")


def test_a_folder_with_files_is_not_new(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    for folder in (tmp_path, tmp_path / "new" / "er"):
        must_be_new(folder, "Sorry.")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"exists and is not empty\. Sorry\."):
        must_be_new(tmp_path, "Sorry.")
    with pytest.raises(ConfigError, match=r"file is a file; expected a folder\. Sorry\."):
        must_be_new(tmp_path / "file", "Sorry.")
