"""The tables in the documents equal those made from the results in the repository."""

from pathlib import Path

import pytest
from report import DOCUMENTS, ROOT, ReportError, rewrite
from tables import write_rows
from test_tables import ROWS, TUNING

OPEN = "<!-- table: results.csv {} -->\n"
CLOSE = "<!-- end of table -->"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_tables_of_a_document_are_those_of_the_results(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert rewrite(text) == text, "run python benchmarks/report.py"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_rows(tmp_path / "results.csv", ROWS)
    write_rows(tmp_path / "tuning.csv", TUNING)
    (tmp_path / "gate.json").write_text('{"no hint": 0.25, "wrong turns": 12, "passed": true}')
    (tmp_path / "page.md").write_text("# A page\n\n")
    return tmp_path


def test_a_table_is_made_between_its_markers_and_nothing_else_changes(root: Path) -> None:
    before = f"Intro\n\n{OPEN.format('short budgets=0,250 methods=base,hero_rule')}old\n{CLOSE}\n\nEnd\n"
    after = rewrite(before, root)
    assert after.startswith(
        "Intro\n\n<!-- table: results.csv short budgets=0,250 methods=base,hero_rule -->\n| method "
    )
    assert after.endswith(f"{CLOSE}\n\nEnd\n")
    assert "old" not in after
    assert "| HERO, rule-based reflector, frozen teacher | 0.20 | 0.85 (0.80 to 0.90) |" in after
    assert "| Base, not trained | 0.20 | 0.20 (0.10 to 0.30) |" in after
    assert "GRPO" not in after
    assert rewrite(after, root) == after


def test_the_short_table_has_a_row_per_rate_and_counts_runs_without_a_result(root: Path) -> None:
    write_rows(root / "results.csv", [*ROWS, *({**one, "lr": "0.002"} for one in ROWS if one["method"] == "hero_rule")])
    table = rewrite(OPEN.format("short") + CLOSE, root)
    assert "| HERO, rule-based reflector, frozen teacher, 0.001 | 0.20 | 0.85 (0.80 to 0.90) |" in table
    assert "| HERO, rule-based reflector, frozen teacher, 0.002 | 0.20 | 0.85 (0.80 to 0.90) |" in table
    assert "| GRPO, group of 8 | 0.20 | 0.00, 1 of 2 runs |" in table


@pytest.mark.parametrize(
    ("marker", "row"),
    [
        ("success", "| GRPO, group of 8 | 0.001 | 2, 1 crashed |"),
        ("runs", "| GRPO, group of 8 | b | 0.001 | 1 | 0.30 |  | crashed: RuntimeError: memory |"),
        ("costs budget=250", "| at 250 turns |"),
    ],
)
def test_every_kind_of_table_shows_its_rows(marker: str, row: str, root: Path) -> None:
    assert row in rewrite(OPEN.format(marker) + CLOSE, root)


def test_tables_of_other_files(root: Path) -> None:
    text = "".join(
        f"<!-- table: {words} -->\n{CLOSE}\n" for words in ("tuning.csv tuning", "gate.json json", "page.md text")
    )
    rewritten = rewrite(text, root)
    assert "| GRPO, group of 8 | 0.300 (chosen) | 0.250 |" in rewritten
    assert "| no hint | 0.250 |\n| wrong turns | 12 |\n| passed | True |" in rewritten
    assert f"# A page\n{CLOSE}" in rewritten


@pytest.mark.parametrize(
    ("marker", "cure"),
    [
        ("<!-- table: gone.csv success -->\n" + CLOSE, "no such file"),
        (OPEN.format("gains") + CLOSE, "Expected one of: success"),
        (OPEN.format("success methods=hero") + CLOSE, "no row has method 'hero'"),
        (OPEN.format("success method=grpo") + CLOSE, "Unknown setting 'method'"),
        (OPEN.format("success"), "not closed"),
    ],
    ids=["file", "kind", "method", "setting", "end"],
)
def test_a_marker_that_cannot_be_followed_is_refused(marker: str, cure: str, root: Path) -> None:
    with pytest.raises(ReportError, match=cure):
        rewrite(marker, root)
