"""The exceptions of hero_pl. A message states what was given, what was expected, and what to do."""

from collections.abc import Sequence
from typing import ClassVar


class HeroError(Exception):
    """Base class of all errors of hero_pl."""

    exit_status: ClassVar[int] = 1
    """Exit status of a command that ends with this error."""


class ConfigError(HeroError, ValueError):
    """A configuration value is not usable; raised before a model is loaded."""


class EnvError(HeroError, RuntimeError):
    """An environment does not follow the API that ``hero_pl check-env`` checks, or too many episodes broke."""


class TokenAlignmentError(HeroError, ValueError):
    """Student and teacher would score different token ids."""


class ReflectionError(HeroError, RuntimeError):
    """A reflector could not be run. A reflection that cannot be parsed is not an error, but a counted result."""


class PolicyError(HeroError, RuntimeError):
    """A policy, its tokenizer or its chat template cannot be used."""


class EndpointError(HeroError, RuntimeError):
    """A server that the run depends on no longer answers."""


class SpendCapError(EndpointError):
    """A request could cost more than the spend cap allows."""

    exit_status: ClassVar[int] = 3


def check_choice(owner: str, name: str, given: object, accepted: Sequence[str]) -> None:
    """Check a setting that is one of a few words; from Python, nothing else compares it with its annotation.

    Args:
        owner: Class with the setting.
        name: Name of the setting.
        given: Its value.
        accepted: The words.

    Raises:
        ConfigError: It is none of them.
    """
    if given not in accepted:
        raise ConfigError(f"{owner}({name}={given!r}): expected one of {', '.join(accepted)}.")
