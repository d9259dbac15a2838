"""Which code made a file of results."""

from __future__ import annotations

from hero_pl.runs.provenance import commit

__all__ = ["commit", "signed"]


def signed(markdown: str) -> str:
    """A Markdown page with the commit in its last line."""
    return f"{markdown.rstrip()}\n\nMade on commit {commit() or 'unknown'}.\n"
