"""Record which version of the code wrote a file of results."""

from __future__ import annotations

from hero_pl.runs.provenance import commit

__all__ = ["commit", "signed"]


def signed(markdown: str) -> str:
    """Append the commit to a Markdown page."""
    return f"{markdown.rstrip()}\n\nMade on commit {commit() or 'unknown'}.\n"
