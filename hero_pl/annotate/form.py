"""Label rows in a browser: one HTML file that needs no server and no network, and saves JSON lines."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path

from hero_pl.annotate.files import read_rows
from hero_pl.annotate.quality import QUESTIONS
from hero_pl.errors import HeroError
from hero_pl.runs.folders import must_be_writable
from hero_pl.runs.viewer.page import fill_page


def write_form(turns: Path, out: Path) -> int:
    """Write the page and return the number of rows in it.

    Args:
        turns: Rows written by ``hero_pl annotate sample``.
        out: Path of the page; an existing file is replaced.

    Raises:
        HeroError: The rows cannot be read, or the page cannot be written.
    """
    rows = read_rows(turns)
    must_be_writable(out, "Give another name with --out.")
    shown = [{key: value for key, value in row.items() if key not in ("labels", "rater")} for row in rows]
    sample = hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]
    data = {"name": turns.stem, "sample": sample, "questions": dict(QUESTIONS), "rows": rows}
    page = fill_page(files(__package__), "form", f"Annotate {turns.name}", data)
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise HeroError(f"{out}: cannot write the page ({error.strerror or error}). Give another path.") from error
    return len(rows)
