"""Configuration files: names that work without a checkout, and a YAML loader without surprising conversions.

``hero_pl:quickstart`` is ``configs/quickstart.yaml`` of the repository; the wheel contains that folder.
"""

from __future__ import annotations

import difflib
import math
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from hero_pl.errors import ConfigError
from hero_pl.runs.folders import must_exist

DEEPEST = 100
"""Levels of a configuration at most."""
LARGEST = 5_000
"""Values of a configuration at most; the parser takes seconds for as many."""
MOST_BYTES = 1_000_000
"""Size of a configuration at most."""
PACKAGED = "hero_pl:"
"""Prefix of configurations that ship with the package, for example ``hero_pl:baselines/grpo``."""


def resolve(name: str | Path) -> Path:
    """Path of a configuration: an unchanged path, or the file for ``hero_pl:NAME``.

    Raises:
        ConfigError: The package has no configuration of this name.
    """
    text = str(name)
    if not text.startswith(PACKAGED):
        return Path(text)
    known = dict(_packaged())
    if text not in known:
        near = difflib.get_close_matches(text, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"The package has no configuration {text!r}.{hint} List them with: hero_pl configs")
    return known[text]


def describe() -> str:
    """List the configurations of the package: name, description, and command."""
    lines = []
    for name, path in _packaged():
        command, *comments = _comments(path)
        description = textwrap.fill(" ".join(comments), 100, initial_indent="    ", subsequent_indent="    ")
        lines += [name, description, f"    {_outside_a_checkout(command)}", ""]
    return "\n".join(lines[:-1])


def read_config(name: str | Path) -> dict[str, Any]:
    """Read the values of a YAML file or of a configuration of the package.

    Numbers must be decimal and finite, and keys must be unique. ``off``, ``no``, ``on`` and ``yes`` are strings; an
    option with a boolean value accepts them.

    Raises:
        ConfigError: The file does not exist, is not YAML, breaks one of these rules, or does not contain keys and
            values.
    """
    path = resolve(name)
    must_exist(path, "file", "Give a YAML file, such as the config.yaml of a run, or a name from: hero_pl configs")
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise _TooLarge(f"{size} bytes; expected a configuration of at most {MOST_BYTES}")
        values = _load(path.read_bytes())
    except _Refused as error:
        raise ConfigError(f"{path}, {error}") from error
    except _TooLarge as error:
        raise ConfigError(f"{path}: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise ConfigError(f"{path} is not YAML: {str(error).replace('<byte string>', str(path))}") from error
    if not isinstance(values, dict):
        given = "nothing" if values is None else "a list" if isinstance(values, list) else "a single value"
        raise ConfigError(
            f"{path} contains {given}. Expected keys and values, such as model: {{...}} and data: {{...}}."
        )
    return values


def load_text(text: str) -> Any:
    """Parse a value of the command line by the same rules; other text stays a string.

    Raises:
        ConfigError: A number, a list or a mapping breaks the rules of :func:`read_config`.
    """
    try:
        return _load(text)
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{text[:60]!r}: {error}") from error
    except _Refused as error:
        if "\n" in text and not text.lstrip().startswith(("{", "[")):
            raise  # text with colons, for example a template
        raise ConfigError(f"{text!r}: {error.problem}") from error


def dump_text(values: dict[str, Any]) -> str:
    """Write YAML that :func:`load_text` reads as exactly these values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


# -- names -----------------------------------------------------------------------------------------------------------


def _packaged() -> list[tuple[str, Path]]:
    """Names and files of the configurations; complete ones before overlays."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    root = installed if installed.is_dir() else package.parent / "configs"  # in a checkout they are next to the package
    files = sorted(root.rglob("*.yaml"), key=lambda path: (len(path.relative_to(root).parts), path))
    return [(PACKAGED + path.relative_to(root).with_suffix("").as_posix(), path) for path in files]


def _comments(path: Path) -> Iterator[str]:
    """Lines of the comment at the top of a file, without ``#``."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return
        yield line.removeprefix("#").strip()


def _outside_a_checkout(command: str) -> str:
    return re.sub(r"configs/([\w/]+)\.yaml", rf"{PACKAGED}\1", command)


# -- YAML ------------------------------------------------------------------------------------------------------------


class _Refused(yaml.constructor.ConstructorError):
    """Valid YAML that this loader refuses, because it is easily misread."""

    def __str__(self) -> str:
        assert self.problem_mark is not None
        return f"line {self.problem_mark.line + 1}: {self.problem}"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML loader with the scalars of version 1.2, without octal numbers, infinities and NaN."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - none of version 1.1; filled below

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; duplicate keys are refused."""
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    again = (
                        f"the key {key.value!r} appears twice (first in line {seen[key.value]}); remove one of them."
                    )
                    raise _Refused(None, None, again, key.start_mark)
                seen[key.value] = key.start_mark.line + 1
        self.flatten_mapping(node)
        return dict(super().construct_mapping(node, deep=deep))


def _load(text: str | bytes) -> Any:
    """The value of a text. Tags and depth are checked first: the loader in C ends the process where it is too deep."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise _Refused(
                None, None, f"the tag {tag!r}: tags are not supported, write the value alone.", _place(event)
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise _Refused(None, None, f"more than {DEEPEST} levels inside each other", _place(event))
    value = _Loader(text).get_single_data()
    _check_size(value)
    return value


def _place(event: Any) -> Any:
    return event.start_mark


class _TooLarge(ConfigError):
    """More values than a configuration may have."""


def _check_size(value: Any) -> None:
    """Refuse huge values, also if anchors in a small text expand to them, and values that contain themselves.

    Raises:
        _TooLarge: The value is one of these.
    """
    level, count = [value], 0
    for _ in range(DEEPEST):
        level = [
            one
            for node in level
            if isinstance(node, (dict, list))
            for one in (node.values() if isinstance(node, dict) else node)
        ]
        count += len(level)
        if not level or count > LARGEST:
            break
    if level:
        raise _TooLarge(
            f"more than {LARGEST} values, or a value that contains itself by an anchor (&, *). Put long lists into a "
            "file of their own, and write anchors out."
        )


class _Dumper(yaml.SafeDumper):
    """YAML dumper that quotes every string that the loader would not read as a string."""


def _refuse(loader: Any, node: yaml.ScalarNode) -> NoReturn:
    raise _Refused(
        None,
        None,
        f"{node.value}: expected a finite decimal number without leading zeros. If it is a text, put quotes around it.",
        node.start_mark,
    )


def _finite(loader: Any, node: yaml.ScalarNode) -> float:
    number = float(yaml.SafeLoader.construct_yaml_float(loader, node))
    return number if math.isfinite(number) else _refuse(loader, node)


NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)",
    "tag:yaml.org,2002:float": r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?)",
}
"""Tag -> pattern of numbers."""
_REFUSED = "!refused"
_SCALARS = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    **{tag: (pattern, "-+.0123456789") for tag, pattern in NUMBERS.items()},
    "tag:yaml.org,2002:merge": (r"<<", "<"),
    _REFUSED: (r"[-+]?(0[0-9_]+|0o[0-7_]+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)", "-+.0"),
}
"""Tag -> pattern of its scalars, and their possible first characters."""

for _tag, (_pattern, _first) in _SCALARS.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor(_REFUSED, _refuse)
_Loader.add_constructor("tag:yaml.org,2002:float", _finite)
