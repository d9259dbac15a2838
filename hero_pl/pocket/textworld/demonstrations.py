"""Demonstrations for TextWorld, from the solutions that the games know."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hero_pl.errors import ConfigError
from hero_pl.pocket.shop.demonstrations import check_chances
from hero_pl.rollout.collect import Collector
from hero_pl.rollout.demonstrations import PlannedDemonstrations
from hero_pl.rollout.pool import Reset, Step
from hero_pl.rollout.specs import EpisodeSpec

HASTY = ("unlock", "open")
"""First words of commands that a demonstrator with the habit leaves out at first."""


class TextWorldDemonstrations(PlannedDemonstrations):
    """Plays a shortest solution of each game; with mistakes, for a warm-up that leaves something to learn.

    A mistake costs a turn: the next command is right. With a habit, greedy decoding does not remove the mistakes.

    Args:
        habit: Probability of the command after the next one of the solution where the next one is in ``HASTY``; the
            game refuses it in most cases.
        noise: Probability of another command that the game accepts, elsewhere.
    """

    def __init__(self, habit: float = 0.0, noise: float = 0.0) -> None:
        super().__init__()
        check_chances(self, habit=habit, noise=noise)
        self.habit, self.noise = habit, noise

    def plan(self, spec: EpisodeSpec, collector: Collector) -> Iterator[str]:
        """See :meth:`PlannedDemonstrations.plan`.

        Raises:
            ConfigError: The environment is not TextWorld.
        """
        rng = random.Random(spec.seed)
        answer = collector.ask(Reset(spec.task_id, spec.seed))
        wrong = False
        while not (answer.terminated or answer.truncated):
            solution = _solution(answer.info, collector.env_id)
            slip = None if wrong else self._mistake(solution, answer.info, rng)
            wrong = slip is not None
            command = slip if slip is not None else solution[0] if solution else "look"
            yield command
            answer = collector.ask(Step(command))

    def _mistake(self, solution: Sequence[str], info: Mapping[str, Any], rng: random.Random) -> str | None:
        if len(solution) > 1 and solution[0].partition(" ")[0] in HASTY:
            return solution[1] if rng.random() < self.habit else None
        others = [command for command in info["available_actions"] if command not in solution]
        return rng.choice(others) if others and rng.random() < self.noise else None


def _solution(info: Mapping[str, Any], env_id: str) -> list[str]:
    solution = info.get("policy_commands")
    if not isinstance(solution, list):
        raise ConfigError(
            f"TextWorldDemonstrations plays only hero_pl/TextWorld-v0; {env_id!r} does not say a solution in "
            "info['policy_commands']. Use an expert for this environment."
        )
    return solution
