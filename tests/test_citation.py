"""The citation of the paper is the same everywhere, and the forms for issues are valid."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def test_the_paper_and_the_version_are_the_same_wherever_they_are_cited() -> None:
    paper = (ROOT / "hero_pl" / "export" / "paper.bib").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"```bibtex\n{paper}```" in page
    assert citation["version"] == version
    assert f"version = {{{version}}}" in page
    article = citation["preferred-citation"]
    authors = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in article["authors"])
    assert f"{{{authors}}}" in paper
    assert article["title"] == re.sub(r"[{}]", "", re.search(r"title\s+= \{(.*)\},", paper)[1])
    assert article["url"] in paper


def test_every_form_for_an_issue_names_its_fields_once() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert {path.stem for path in forms} == {"bug", "feature", "environment", "config"}
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem == "config":
            continue
        fields = [field["id"] for field in form["body"]]
        assert len(fields) == len(set(fields)) > 0
        assert all(field["attributes"]["label"] for field in form["body"])
        assert {"name", "description", "labels", "body"} <= set(form)
