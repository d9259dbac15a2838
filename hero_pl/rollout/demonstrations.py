"""Training data that is made instead of sampled from the policy: warm-up before any online run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from hero_pl.policy.base import Policy
from hero_pl.rollout.collect import Collector, Draw
from hero_pl.types import Trajectory


class Demonstrations(ABC):
    """Makes trajectories whose actions are labels."""

    @abstractmethod
    def make(self, draws: Sequence[Draw], policy: Policy, collector: Collector) -> list[Trajectory]:
        """Labelled trajectories for these draws.

        Args:
            draws: Tasks and seeds.
            policy: For its chat template and dialect; its weights are not used.
            collector: Plays the environment.
        """
