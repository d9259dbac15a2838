"""Everything that a configuration can swap: each subclass of a base, and the one nearest to a wrong name."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hero_pl.objectives.mixed
import hero_pl.objectives.policy_gradient
import hero_pl.objectives.self_distillation
import hero_pl.objectives.sft
import hero_pl.pocket.retail.demonstrations
import hero_pl.pocket.shop.demonstrations
import hero_pl.pocket.shop.expert
import hero_pl.policy.huggingface
import hero_pl.policy.scripted
import hero_pl.reflection.chat_reflector
import hero_pl.reflection.controls
import hero_pl.reflection.none
import hero_pl.reflection.policy_reflector
import hero_pl.reflection.scripted
import hero_pl.teacher.full_demo  # noqa: F401
from hero_pl.chat.actions import ActionParser
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


def registered() -> dict[str, list[type]]:
    """Concrete classes of every swappable base, by the base's name."""

    def below(base: Any) -> list[type]:
        found: list[type] = [cls for direct in base.__subclasses__() for cls in (direct, *below(direct))]
        return sorted(
            {c for c in found if not inspect.isabstract(c) and c.__name__[0] != "_"}, key=lambda c: c.__name__
        )

    return {base.__name__: below(base) for base in BASES}


def describe() -> str:
    """The list: one line per class, with its first sentence; classes of other packages by their import path."""
    lines: list[str] = []
    for base, classes in registered().items():
        lines.append(f"{base}:")
        for cls in classes:
            first = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
            lines.append(f"  {_name(cls):24} {first}")
    return "\n".join(lines)


def read_config(path: Path) -> dict[str, Any]:
    """Values of a YAML file.

    Raises:
        ConfigError: There is no such file, it is not YAML, or it holds something else than keys and values.
    """
    import yaml

    if not path.is_file():
        raise ConfigError(f"No configuration {path}. Name a YAML file, for example the config.yaml of a run.")
    try:
        values = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {str(error).replace('<byte string>', str(path))}") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else "a list" if isinstance(values, list) else "a single value"
        raise ConfigError(f"{path} holds {found}. Expected keys and values, such as model: {{...}} and data: {{...}}.")
    return values


def named_in(config: Path) -> list[str]:
    """Modules that a configuration names: in front of a class, or of an environment id (``module:Id``).

    Raises:
        ConfigError: See :func:`read_config`.
    """
    found = []
    for key, text in _texts(read_config(config)):
        if key == "env" and ":" in text:
            found.append(text.partition(":")[0])
        elif re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", text) and text.rpartition(".")[2][:1].isupper():
            found.append(text.rpartition(".")[0])
    return list(dict.fromkeys(found))


def import_named(modules: Iterable[str]) -> None:
    """Import modules, so that their classes are found; the folder you are in counts, as it does for ``python -m``.

    Raises:
        ConfigError: One cannot be imported.
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
    """How the tokenizer of a run spells single ids; ``config`` is the run's config.yaml. Nothing is downloaded.

    Raises:
        ConfigError: The configuration names no tokenizer, or none that is on this machine.
    """
    from transformers import AutoTokenizer

    from hero_pl.policy.huggingface import HuggingFacePolicy

    place: Any = read_config(config)
    for key in ("model", "policy", "init_args"):
        place = place.get(key) if isinstance(place, dict) else None
    named = place.get("tokenizer") or place.get("pretrained") if isinstance(place, dict) else None
    if not isinstance(named, str):
        raise ConfigError(f"{config} names no tokenizer")
    try:
        source = HuggingFacePolicy(pretrained=named).tokenizer_source
        tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the tokenizer {named!r} of {config} is not on this machine") from error
    return lambda ids: [tokenizer.decode([one]) for one in ids]


def nearest(word: str) -> str | None:
    """The component nearest to ``word``, a class name or an import path; ``None`` if it is one, a base, or far off."""
    classes = [cls for classes in registered().values() for cls in classes]
    names = {cls.__name__: _name(cls) for cls in classes}
    names |= {f"{cls.__module__}.{cls.__qualname__}": _name(cls) for cls in classes}
    if word in names or word in {
        name for base in BASES for name in (base.__name__, f"{base.__module__}.{base.__name__}")
    }:
        return None
    near = difflib.get_close_matches(word.rpartition(".")[2], names, n=1, cutoff=0.75)
    return names[near[0]] if near else None


def arguments(path: str) -> list[str]:
    """Names of the arguments of a class, given by its import path; empty if there is no such class."""
    module, _, name = path.rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)  # whoever complains of its arguments has imported it
    return list(inspect.signature(cls).parameters) if isinstance(cls, type) else []


def _name(cls: type) -> str:
    """How a configuration names it."""
    return cls.__name__ if cls.__module__.startswith("hero_pl.") else f"{cls.__module__}.{cls.__qualname__}"


def _texts(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts of a configuration with the key that they stand under."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _texts(value, str(name))
    elif isinstance(values, list):
        for value in values:
            yield from _texts(value, key)
    elif isinstance(values, str):
        yield key, values
