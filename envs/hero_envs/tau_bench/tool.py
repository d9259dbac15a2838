"""Tools and how they are called: any failure is a text for the policy, never an exception."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hero_envs.tau_bench.database import Database


@dataclass(frozen=True)
class Tool:
    """One function of the domain.

    The function's first parameter is the database, the others are the arguments in the order of the schema. It
    returns the observation and may raise any exception; changes made before an exception are kept.
    """

    function: Callable[..., str]
    terminal: bool = False
    """Whether the episode ends after the call, even if the call failed."""

    @property
    def name(self) -> str:
        """Name of the tool."""
        return self.function.__name__

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the arguments, all required, in the order of the schema."""
        return tuple(inspect.signature(self.function).parameters)[1:]

    def call(self, data: Database, arguments: Mapping[str, Any]) -> str:
        """Call the tool; ``arguments`` must not be changed by the caller afterwards.

        Args:
            data: Changed in place.
            arguments: Unchecked arguments from the policy.

        Returns:
            The observation; ``Error: ...`` if anything went wrong.
        """
        problem = self._arity_problem(arguments)
        if problem:
            return f"Error: {problem}"
        try:
            return self.function(data, **arguments)
        except Exception as error:  # the benchmark turns any failure of a tool into its observation
            return f"Error: {error}"

    def _arity_problem(self, arguments: Mapping[str, Any]) -> str | None:
        """Python's error text for wrong arguments, the same for all Python versions."""
        method = "".join(part.title() for part in self.name.split("_")) + ".invoke()"
        unexpected = next((name for name in arguments if name not in self.parameters), None)
        if unexpected is not None:
            return f"{method} got an unexpected keyword argument '{unexpected}'"
        missing = [f"'{name}'" for name in self.parameters if name not in arguments]
        if not missing:
            return None
        listed = " and ".join(missing) if len(missing) < 3 else ", ".join(missing[:-1]) + ", and " + missing[-1]
        plural = "" if len(missing) == 1 else "s"
        return f"{method} missing {len(missing)} required positional argument{plural}: {listed}"
