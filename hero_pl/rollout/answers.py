"""Validate the answers of environments: an invalid answer breaks its episode and nothing else.

Rollouts read every answer with :func:`read_start` and :func:`read_step`; ``hero_pl check-env`` lists all errors in one
by the same rules. The result has plain Python values only.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np

from hero_pl.errors import EnvError
from hero_pl.types import Role

ROLES = ("user", "tool")
"""Allowed roles of an observation."""
MAX_CHARS = 100_000
"""Default maximum length of an observation, in characters."""
MAX_INFO = 1_000_000
"""Maximum size of an ``info``: the number of values plus the characters of its texts."""
MAX_DEPTH = 32
"""Maximum nesting of an ``info``."""
MAX_BITS = 1024
"""Maximum size of a whole number; larger ones do not fit into a floating-point number."""
TOLERANCE = 1e-6
"""Tolerance of the bounds of a reward, for rounding in sums of fractions."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A checked answer to ``reset`` or ``step``."""

    observation: str
    role: Role = "user"
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    """JSON values only."""
    cut_chars: int = 0
    """Number of characters that were cut from the observation."""


class Wrong(NamedTuple):
    """An error in one field of an answer."""

    field: str
    what: str

    def __str__(self) -> str:
        """As a sentence."""
        return f"{self.field} {self.what}."


def read_start(answer: object, max_chars: int = MAX_CHARS) -> Answer:
    """Read the return value of ``reset``.

    Args:
        answer: ``(observation, info)``.
        max_chars: Longer observations are cut.

    Raises:
        EnvError: It is wrong; names the field.
    """
    plain: dict[str, Any] = {}
    for wrong in wrong_start(answer, plain):
        raise EnvError(str(wrong))
    observation, _ = cast(tuple[str, Any], answer)
    return _answer(observation, plain, max_chars)


def read_step(answer: object, max_chars: int = MAX_CHARS) -> Answer:
    """Read the return value of ``step``.

    Args:
        answer: ``(observation, reward, terminated, truncated, info)``.
        max_chars: Longer observations are cut.

    Raises:
        EnvError: It is wrong; names the field.
    """
    plain: dict[str, Any] = {}
    for wrong in wrong_step(answer, plain):
        raise EnvError(str(wrong))
    observation, reward, terminated, truncated, _ = cast(tuple[str, Any, Any, Any, Any], answer)
    of_step = {"reward": float(reward), "terminated": bool(terminated), "truncated": bool(truncated)}
    return _answer(observation, plain, max_chars, **of_step)


def wrong_start(answer: object, plain: dict[str, Any] | None = None) -> Iterator[Wrong]:
    """All errors in an answer to ``reset``; ``plain`` gets the copy of ``info``."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        yield Wrong("reset()", f"returned {_shape(answer)}; expected (observation, info)")
        return
    observation, info = answer
    yield from _wrong_text("the observation", observation)
    yield from _wrong_info(info, plain)
    if isinstance(info, dict):
        yield from _wrong_text("info['system_prompt']", info.get("system_prompt", ""))
        yield from _wrong_tools(info.get("tools", []))


def wrong_step(answer: object, plain: dict[str, Any] | None = None) -> Iterator[Wrong]:
    """All errors in an answer to ``step``; ``plain`` gets the copy of ``info``."""
    if not isinstance(answer, tuple) or len(answer) != 5:
        expected = "(observation, reward, terminated, truncated, info)"
        yield Wrong("step()", f"returned {_shape(answer)}; expected {expected}")
        return
    observation, reward, terminated, truncated, info = answer
    yield from _wrong_text("the observation", observation)
    yield from _wrong_reward(reward)
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(value, bool | np.bool_):
            yield Wrong(name, f"is {_brief(value)}; expected True or False")
    yield from _wrong_info(info, plain)


def _answer(observation: str, info: dict[str, Any], max_chars: int, **of_step: Any) -> Answer:
    cut = max(0, len(observation) - max_chars)
    text = f"{observation[:max_chars]}\n[{cut} more characters were cut off]" if cut else str(observation)
    return Answer(text, info.get("role", "user"), info=info, cut_chars=cut, **of_step)


# -- field by field ----------------------------------------------------------------------------------------------------


def _wrong_text(name: str, value: object) -> Iterator[Wrong]:
    if not isinstance(value, str):
        yield Wrong(name, f"is {_brief(value)}; expected text (str)")


def _wrong_reward(value: object) -> Iterator[Wrong]:
    if not isinstance(value, numbers.Real | np.bool_) or not -TOLERANCE <= _float_or_nan(value) <= 1.0 + TOLERANCE:
        yield Wrong("the reward", f"is {_brief(value)}; expected a number in [0, 1]")


def _float_or_nan(value: Any) -> float:
    """The value as a float; NaN if it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _wrong_info(info: object, plain: dict[str, Any] | None) -> Iterator[Wrong]:
    if not isinstance(info, dict):
        yield Wrong("info", f"is {_brief(info)}; expected a dict")
        return
    if "role" in info and not (isinstance(info["role"], str) and info["role"] in ROLES):
        yield Wrong("info['role']", f"is {_brief(info['role'])}; expected 'user' or 'tool'")
    try:
        copy = _Plain().value(info)
        if plain is not None:
            plain.update(copy)
    except _NotPlainError as error:
        yield error.wrong


def _wrong_tools(tools: object) -> Iterator[Wrong]:
    if not isinstance(tools, list | tuple):
        yield Wrong("info['tools']", f"is {_brief(tools)}; expected a list of JSON schemas, empty if there are none")
        return
    for i, tool in enumerate(tools):
        yield from wrong_tool(tool, f"info['tools'][{i}]")


def wrong_tool(tool: object, name: str = "the tool") -> Iterator[Wrong]:
    """All errors in the schema of one tool."""
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        yield Wrong(name, f"is {_brief(tool)}; expected {{'type': 'function', 'function': {{'name': ...}}}}")
    elif not isinstance(function.get("parameters"), dict):
        yield Wrong(f"{name} ({function['name']})", "has no object 'parameters'")


class _NotPlainError(Exception):
    """A value that cannot be written as JSON, or that is too large; ``path`` is its path in ``info``."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.path: list[str] = []

    @property
    def wrong(self) -> Wrong:
        return Wrong("info" + "".join(f"[{key}]" for key in reversed(self.path[-4:])), str(self))


class _Plain:
    """Copies a value to JSON values, within the limits."""

    def __init__(self) -> None:
        self.left = MAX_INFO

    def value(self, value: Any, depth: int = 0) -> Any:
        """The copy.

        Raises:
            _NotPlainError: It cannot be written as JSON, or it is too large.
        """
        self._pay(1)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            self._pay(len(value))
            return str(value)
        if isinstance(value, int) and value.bit_length() <= MAX_BITS:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufU":
            self._pay(value.size)
            return self.value(value.tolist(), depth)
        if isinstance(value, Mapping | list | tuple):
            if depth == MAX_DEPTH:
                raise _NotPlainError(f"is nested deeper than {MAX_DEPTH} levels, or holds itself")
            if isinstance(value, Mapping):
                plain = {self._key(key): self._inside(item, repr(key), depth) for key, item in value.items()}
                if len(plain) < len(value):
                    raise _NotPlainError("has the same key as a number and as text; expected each key once")
                return plain
            return [self._inside(item, str(i), depth) for i, item in enumerate(value)]
        raise _NotPlainError(f"is {_brief(value)}, for which JSON has no form")

    def _inside(self, value: Any, key: str, depth: int) -> Any:
        try:
            return self.value(value, depth + 1)
        except _NotPlainError as error:
            error.path.append(key[:40])
            raise

    def _key(self, key: object) -> str:
        if not isinstance(key, str | int):
            raise _NotPlainError(f"has the key {_brief(key)}; expected text")
        self._pay(len(str(key)))
        return str(key)

    def _pay(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise _NotPlainError(f"makes info larger than {MAX_INFO} values and characters")


# -- words -------------------------------------------------------------------------------------------------------------


def _shape(answer: object) -> str:
    if isinstance(answer, tuple):
        return f"{len(answer)} values"
    return _brief(answer)


def _brief(value: object) -> str:
    """Type and beginning of any value."""
    if value is None:
        return "None"
    if isinstance(value, str | bytes):
        text = repr(value[:40]) + ("..." if len(value) > 40 else "")
    elif isinstance(value, numbers.Number | np.generic):
        text = repr(value)[:40] if not isinstance(value, int) or value.bit_length() < 99 else "a huge whole number"
    else:
        return f"of type {type(value).__name__}"
    return text if isinstance(value, str | bool | float) else f"{text} ({type(value).__name__})"
