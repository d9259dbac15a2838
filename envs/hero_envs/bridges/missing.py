"""The error for an optional package that is not installed."""

from __future__ import annotations


def missing(package: str, extra: str, error: ImportError) -> ImportError:
    """An import error that names the extra of hero_pl.

    Args:
        package: Name of the package for people.
        extra: Name of the extra.
        error: What Python said; kept if it is another package that is missing.
    """
    return ImportError(f"{package} is not installed ({error}): pip install 'hero_pl[{extra}]'")
