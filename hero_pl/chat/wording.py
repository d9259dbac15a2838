"""How prompts are written: one manner of reading their templates, and recorded text marked line by line."""

from __future__ import annotations

import jinja2


def quoted(text: str) -> str:
    r"""Begin every line with ``| ``, whatever character ends it, so that none can pose as anything else.

    Example:
        >>> quoted("red\rblue")
        '| red\n| blue'
    """
    return "\n".join(f"| {line}" for line in text.splitlines()) or "| (nothing)"


def jinja_environment(loader: jinja2.BaseLoader | None = None) -> jinja2.Environment:
    """Unknown names are errors, a line with a tag alone leaves nothing behind, nothing is escaped.

    Args:
        loader: Where templates are found by name.
    """
    return jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # a prompt is not HTML
    )
