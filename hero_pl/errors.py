"""The exceptions of hero_pl: what was given, what was expected, what to do."""

from typing import ClassVar


class HeroError(Exception):
    """Root of every error that hero_pl raises on purpose."""

    exit_status: ClassVar[int] = 1
    """Of a command that it ends."""


class ConfigError(HeroError, ValueError):
    """A configuration value is unusable; raised before any model is loaded."""


class EnvError(HeroError, RuntimeError):
    """An environment broke the contract that ``hero_pl check-env`` proves."""


class TokenAlignmentError(HeroError, ValueError):
    """Student and teacher would score different token ids."""


class ReflectionError(HeroError, RuntimeError):
    """A reflector could not be run (unparsable reflections are data, not errors)."""


class PolicyError(HeroError, RuntimeError):
    """A policy, its tokenizer or its chat template cannot be used."""


class EndpointError(HeroError, RuntimeError):
    """A server that the run depends on does not answer any more."""


class SpendCapError(EndpointError):
    """A request might cost more than may be spent."""

    exit_status: ClassVar[int] = 3
