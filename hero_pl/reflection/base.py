"""Interface of reflectors, which diagnose turns in hindsight.

A reflector gets whole, finished trajectories. An unparsable answer is a rejected :class:`~hero_pl.types.Reflection`
with its issues, never an exception.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hero_pl.types import Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.base import Copies, Policy


class Reflector(ABC):
    """Computes reflections from trajectories: one diagnosis or ``None`` per turn."""

    needs_replies = False
    """Whether what it says of an episode without the replies of the environment is false instead of missing."""
    removes_targets = False
    """Whether its diagnoses never have a corrected action, although those of the reflector in it may have one."""

    def check_policy(self, policy: Policy) -> None:  # noqa: B027 - most reflectors ask no policy
        """Refuse settings that cannot work with the policy, before its weights are read. Wrappers pass it on.

        Args:
            policy: The policy that will be trained.

        Raises:
            ConfigError: The policy cannot be used; the message says why and what to change.
        """

    @property
    def copies(self) -> Copies:
        """Frozen copies of the policy that it uses. Wrappers return those of their reflector."""
        return {}

    def start(self, policy: Policy) -> None:
        """Called once before training, with the policy at its initial weights; keeps the copies.

        Wrappers call it on their reflector.

        Args:
            policy: The policy that will be trained.
        """
        policy.keep_all(self.copies)

    @property
    def continues(self) -> int:
        """How many of the latest episodes the live weights go on with, so that their keys and values are of use."""
        return 0

    @property
    def lends(self) -> str | None:
        """Name of the frozen weights of the policy that read each episode as it was played; ``None`` if none do."""
        return None

    @abstractmethod
    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """Diagnose every turn of every trajectory.

        Args:
            trajectories: Finished episodes, successful and failed ones.
            policy: The current policy, for reflectors that use it. Others accept ``None`` and ignore it.

        Returns:
            One reflection per trajectory, in the same order, with ``len(diagnoses) == len(turns)``.

        Raises:
            ReflectionError: The reflector could not be run.
        """

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs to be bit-identical; empty for a reflector without state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - stateless reflectors need nothing
        """Restore :meth:`state_dict`.

        Args:
            state: The saved state of a reflector built with the same arguments.
        """
