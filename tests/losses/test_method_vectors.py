"""Methods that carry a paper's name agree with vectors computed from its formula alone."""

import json
import runpy
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
FILES = sorted((Path(__file__).parent / "vectors").glob("*.json"))


def script(name: str) -> dict[str, object]:
    return runpy.run_path(str(TESTS / "conformance" / f"{name}.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_case_of_a_method_passes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("loss_vectors")["main"]([str(file)]) == 0, capsys.readouterr().out


def inputs_of(file: Path) -> list[object]:
    document = json.loads(file.read_text(encoding="utf-8"))
    return [(case["id"], case["params"], case["inputs"]) for suite in document["suites"] for case in suite["cases"]]


def test_the_files_are_what_the_script_writes_and_none_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script("make_method_vectors")["main"](tmp_path)
    written = sorted(tmp_path.iterdir())
    assert {file.name: inputs_of(file) for file in written} == {file.name: inputs_of(file) for file in FILES}
    assert script("loss_vectors")["main"]([str(file) for file in written]) == 0, capsys.readouterr().out


def test_the_vectors_know_nothing_of_the_package() -> None:
    source = (TESTS / "conformance" / "make_method_vectors.py").read_text(encoding="utf-8")
    assert "import torch" not in source
    assert "hero_pl" not in source.partition('"""')[2].partition('"""')[2]
