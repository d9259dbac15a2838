"""Build prompts from recorded text: the Jinja environment of all prompt templates, and quoting line by line."""

from __future__ import annotations

import jinja2


def quoted(text: str) -> str:
    r"""Prefix every line with ``| ``, for any line ending, so that quoted text cannot look like other parts.

    Example:
        >>> quoted("red\rblue")
        '| red\n| blue'
    """
    return "\n".join(f"| {line}" for line in text.splitlines()) or "| (nothing)"


def jinja_environment(loader: jinja2.BaseLoader | None = None) -> jinja2.Environment:
    """Environment for prompt templates: unknown names are errors, lines with only a tag are removed, no escaping.

    Args:
        loader: Loader of templates by name.
    """
    return jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # a prompt is not HTML
    )
