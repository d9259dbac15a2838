"""Render the text of a hint within its token limit."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from hero_pl.chat.wording import jinja_environment
from hero_pl.errors import ConfigError
from hero_pl.teacher.wordings import AUTO, POSITIONS

NOTHING: dict[str, Any] = {
    "next_observation": "",
    "reward": None,
    "outcome": "",
    "diagnosis": None,
    "confidence": None,
    "target": None,
}
"""Content of an empty hint."""
SAMPLE: dict[str, Any] = {
    "next_observation": "observation",
    "reward": "1.00",
    "outcome": "success",
    "diagnosis": "diagnosis",
    "confidence": "high",
    "target": "action",
}
"""Content with which a template is tried when it is read."""
CUT = " [... cut ...] "
"""Marker for a part in the middle of a long text that was left out."""


class HintTemplate:
    """A Jinja file that turns the privileged facts of one turn into text.

    Args:
        path: Name of a shipped wording (``short``), file, or ``None`` for ``full``. Known names:
            ``next_observation``, ``reward`` (text with two decimals or none), ``outcome``, ``diagnosis``,
            ``confidence``, ``target``.
        max_observation_tokens: The observation is cut in the middle beyond this.
        max_hint_tokens: The observation of a longer hint is shortened; if that is not enough, the target is left out.
            Wording and diagnosis stay whole, so a hint with a long diagnosis can be longer; it is counted.

    Raises:
        ConfigError: A limit is too small, or the file cannot be read, compiled or rendered.
    """

    def __init__(self, path: str | None, max_observation_tokens: int, max_hint_tokens: int) -> None:
        shipped = path is None or path in POSITIONS
        if max_observation_tokens < 8 or max_hint_tokens < 16:
            raise ConfigError(
                f"max_observation_tokens={max_observation_tokens}, max_hint_tokens={max_hint_tokens}: "
                "expected at least 8 and 16."
            )
        self._template = load_template(None if shipped else path, f"wordings/{path or 'full'}.jinja", NOTHING, SAMPLE)
        self.max_observation_tokens, self.max_hint_tokens = max_observation_tokens, max_hint_tokens
        self.cut_observations = 0
        """Number of observations cut since the last reset of the counters."""
        self.dropped_targets = 0
        """Number of targets left out since then."""
        self.long_hints = 0
        """Number of hints above ``max_hint_tokens`` since then."""

    @property
    def scaffold(self) -> str:
        """The hint without content."""
        return str(self._template.render(NOTHING)).strip()

    def render(self, count: Callable[[str], int], facts: dict[str, Any]) -> str:
        """Render the hint, without surrounding white space.

        Args:
            count: Number of tokens of a text.
            facts: Values for the names above.
        """
        whole = facts["next_observation"]
        facts = {**facts, "next_observation": shorten(count, whole, self.max_observation_tokens)}
        text, shown, size = self._fitted(count, facts)
        if facts["target"] and size > self.max_hint_tokens:
            without = self._fitted(count, {**facts, "target": None})
            if without[2] <= self.max_hint_tokens:  # else the target would be left out in vain
                text, shown, size = without
                self.dropped_targets += 1
        self.cut_observations += shown != whole
        self.long_hints += size > self.max_hint_tokens
        return text

    def _fitted(self, count: Callable[[str], int], facts: dict[str, Any]) -> tuple[str, str, int]:
        """The hint, with the observation as short as it must be, this observation, and the hint's number of tokens."""
        shown = facts["next_observation"]
        text = str(self._template.render(facts)).strip()
        size = count(text)  # once: encoding is what a hint costs here
        if size > self.max_hint_tokens and shown:
            shown = shorten(count, shown, max(count(shown) - (size - self.max_hint_tokens) - 4, 0))
            text = str(self._template.render({**facts, "next_observation": shown})).strip()
            size = count(text)
        return text, shown, size


def shorten(count: Callable[[str], int], text: str, limit: int) -> str:
    """Cut ``text`` in the middle to at most ``limit`` tokens; empty if the marker alone is too long.

    Args:
        count: Number of tokens of a text.
        text: Text to shorten.
        limit: Maximum length, in tokens.
    """
    if count(text) <= limit:
        return text
    keep = len(text)
    while keep > 0:
        half = keep // 2
        shorter = text[:half] + CUT + text[len(text) - half :] if half else ""
        if not shorter or count(shorter) <= limit:
            return shorter
        keep = min(keep - 1, int(keep * max(limit, 1) / count(shorter)))
    return ""


def read_template(path: str | None, default: str) -> str:
    """Source of a template: the user's, one of the package (``hero_pl:pocket/hint.jinja``), or the default.

    Args:
        path: Path as in the configuration; ``None`` for the default.
        default: Name of a file in this folder.

    Raises:
        ConfigError: The file cannot be read.
    """
    package = Path(__file__).parent.parent
    if path is None:
        file = package / "teacher" / default
    else:
        file = package / path.removeprefix("hero_pl:") if path.startswith("hero_pl:") else Path(path)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if file.suffix:
            raise ConfigError(f"The hint template {str(file)!r} cannot be read: {error}. Check the path.") from error
        names = [AUTO, *POSITIONS]
        near = difflib.get_close_matches(str(file), names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"There is no wording, and no file, {str(file)!r}.{hint} The wordings are: {', '.join(names)}."
        ) from error


def load_template(path: str | None, default: str, *samples: Mapping[str, Any]) -> jinja2.Template:
    """Read a template, compile it, and try it; unknown names are errors.

    Args:
        path: See :func:`read_template`.
        default: See there.
        samples: Contents that it must be able to show, all with the same names.

    Raises:
        ConfigError: It cannot be read or compiled, or it cannot show a sample.
    """
    named = f"The hint template {path or default!r}"
    try:
        template = compile_template(read_template(path, default))
    except jinja2.TemplateError as error:
        raise ConfigError(f"{named} does not compile: {error}.") from error
    for sample in samples:
        try:
            template.render(sample)
        except Exception as error:  # any, of an expression or a filter in it
            shown = ", ".join(f"{name}={value!r}" for name, value in sample.items())
            raise ConfigError(f"{named} cannot be rendered: {error}. It must be able to show {shown}.") from error
    return template


@lru_cache(maxsize=16)
def compile_template(source: str) -> jinja2.Template:
    """Compile a template of hints.

    Raises:
        jinja2.TemplateError: It does not compile.
    """
    return jinja_environment().from_string(source)
