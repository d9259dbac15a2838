"""Components that a configuration can use: all subclasses of the base classes, and suggestions for wrong names."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hero_pl.chat.actions import ActionParser
from hero_pl.cli.configs import read_config
from hero_pl.errors import ConfigError
from hero_pl.losses.base import DistillationLoss
from hero_pl.losses.gates import Gate
from hero_pl.losses.importance import ImportanceCorrection
from hero_pl.objectives.base import Objective
from hero_pl.policy.base import Policy
from hero_pl.policy.sampling import Sampler
from hero_pl.reflection.base import Reflector
from hero_pl.rollout.demonstrations import Demonstrations
from hero_pl.teacher.base import Teacher
from hero_pl.teacher.weights import TeacherWeights

BASES = (
    Policy,
    Sampler,
    ActionParser,
    Reflector,
    Teacher,
    TeacherWeights,
    DistillationLoss,
    Gate,
    ImportanceCorrection,
    Objective,
    Demonstrations,
)


PACKAGES = ("chat", "losses", "objectives", "pocket", "policy", "reflection", "rollout", "teacher")
"""Packages with components; all their modules are imported."""


@cache
def import_components() -> None:
    """Import every module of these packages, so that each class can be used by its short name.

    Raises:
        ConfigError: Two classes have the same name, so the short name would be ambiguous.
    """
    for name in PACKAGES:
        package = importlib.import_module(f"hero_pl.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    homes: dict[str, type] = {}
    for cls in dict.fromkeys(cls for classes in _subclasses().values() for cls in classes):
        other = homes.setdefault(cls.__name__, cls)
        if other is not cls and cls.__module__.startswith("hero_pl.") and other.__module__.startswith("hero_pl."):
            places = " and ".join(f"{one.__module__}.{one.__qualname__}" for one in (other, cls))
            raise ConfigError(f"Two components have the name {cls.__name__}: {places}. Rename one of them.")


def registered() -> dict[str, list[type]]:
    """Concrete classes of every base class, by the name of the base class."""
    import_components()
    return _subclasses()


def _subclasses() -> dict[str, list[type]]:
    def below(base: Any) -> list[type]:
        classes: list[type] = [cls for direct in base.__subclasses__() for cls in (direct, *below(direct))]
        return sorted(
            {c for c in classes if not inspect.isabstract(c) and c.__name__[0] != "_"}, key=lambda c: c.__name__
        )

    return {base.__name__: below(base) for base in BASES}


def describe() -> str:
    """Text with one line per class and its first sentence; classes of other packages have their import path."""
    lines: list[str] = []
    for base, classes in registered().items():
        lines.append(f"{base}:")
        for cls in classes:
            first = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
            lines.append(f"  {_name(cls):24} {first}")
    return "\n".join(lines)


def named_in(config: str | Path) -> list[str]:
    """Modules that a configuration uses, in the path of a class or in an environment id (``module:Id``).

    Raises:
        ConfigError: See :func:`~hero_pl.cli.configs.read_config`.
    """
    modules = []
    for key, text in _texts(read_config(config)):
        if key == "env" and ":" in text:
            modules.append(text.partition(":")[0])
        elif re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", text) and text.rpartition(".")[2][:1].isupper():
            modules.append(text.rpartition(".")[0])
    return list(dict.fromkeys(modules))


def import_named(modules: Iterable[str]) -> None:
    """Import modules so that their classes are found; also searches the current folder, like ``python -m``.

    Raises:
        ConfigError: A module cannot be imported.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"{name!r} cannot be imported: {error}. Install the package, or put its folder on PYTHONPATH."
            ) from error


def speller(config: Path) -> Callable[[Sequence[int]], list[str]]:
    """Load the tokenizer of a run and return a function that decodes single ids. Nothing is downloaded.

    Raises:
        ConfigError: The configuration has no tokenizer, or it is not on this machine.
    """
    tokenizer = _tokenizer(config)
    spell = functools.cache(lambda one: tokenizer.decode([one]))
    return lambda ids: [spell(one) for one in ids]


def control_tokens(config: Path) -> list[str]:
    """Control tokens of the tokenizer of a run, as rollouts know them; ``config`` as in :func:`speller`.

    Raises:
        ConfigError: As :func:`speller`.
    """
    from hero_pl.chat.encode import Encoder

    return list(Encoder(_tokenizer(config)).control)


def _tokenizer(config: Path) -> Any:
    from transformers import AutoTokenizer

    from hero_pl.policy.huggingface import HuggingFacePolicy

    place: Any = read_config(config)
    for key in ("model", "policy", "init_args"):
        place = place.get(key) if isinstance(place, dict) else None
    named = place.get("tokenizer") or place.get("pretrained") if isinstance(place, dict) else None
    if not isinstance(named, str):
        raise ConfigError(f"{config} has no tokenizer")
    try:
        source = HuggingFacePolicy(pretrained=named).tokenizer_source
        return AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the tokenizer {named!r} of {config} is not on this machine") from error


def nearest(word: str) -> str | None:
    """The component with the most similar name; ``None`` if ``word`` exists or nothing is similar."""
    classes = [cls for classes in registered().values() for cls in classes]
    names = {cls.__name__: _name(cls) for cls in classes}
    names |= {f"{cls.__module__}.{cls.__qualname__}": _name(cls) for cls in classes}
    module, _, name = word.rpartition(".")
    if isinstance(getattr(sys.modules.get(module), name, None), type):  # also by a shorter import path
        return None
    if word in names or word in {base.__name__ for base in BASES}:
        return None
    given = word.rpartition(".")[2].lower()
    lower = {name.lower(): shown for name, shown in names.items()}
    near = difflib.get_close_matches(given, lower, n=1, cutoff=0.75)
    # for a part of a name, such as Jensen for JensenShannon, take the shortest name that contains it
    parts = sorted((name for name in lower if "." not in word and len(word) > 2 and given in name), key=len)
    return next((lower[name] for name in (*near, *parts)), None)


def arguments(path: str) -> list[str]:
    """Names of the arguments of a class, given by its import path; empty if there is no such class."""
    module, _, name = path.rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)  # it is imported if the parser complains about its arguments
    return list(inspect.signature(cls).parameters) if isinstance(cls, type) else []


def _name(cls: type) -> str:
    """Name in a configuration."""
    return cls.__name__ if cls.__module__.startswith("hero_pl.") else f"{cls.__module__}.{cls.__qualname__}"


def _texts(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All strings of a configuration, each with its key."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _texts(value, str(name))
    elif isinstance(values, list):
        for value in values:
            yield from _texts(value, key)
    elif isinstance(values, str):
        yield key, values
