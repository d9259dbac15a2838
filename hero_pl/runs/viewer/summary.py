"""Summaries of the logged episodes by stage and, for evaluations, by step; shown at the top of both views."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hero_pl.runs.records import Record, evaluable, succeeded

WITHOUT_STEPS = ("train", "rollout")
"""Stages with one summary: training, whose weights change all the time, and episodes that were played outside of it."""


@dataclass(slots=True)
class StageSummary:
    """Counts over the episodes of one stage, and of one step if it is an evaluation, updated while a file is read."""

    stage: str
    step: int | None = None
    """Optimizer steps that the evaluated weights had made; ``None`` for other stages."""
    last_of: int = 0
    """Number of steps with an evaluation, if this is the last of more than two; those between are not shown."""
    episodes: int = 0
    """Evaluable episodes. The others are counted in ``broken`` only."""
    broken: int = 0
    successes: int = 0
    floors: list[bool] = field(default_factory=list)
    """Whether doing nothing would succeed, for each episode whose environment reports it."""
    users: set[str] = field(default_factory=set)
    """Kinds of user simulators."""
    turns: int = 0
    reward: float = 0.0
    """Sum over episodes."""
    reflected_turns: int = 0
    """Turns of the episodes that have a reflection."""
    diagnosed_turns: int = 0
    malformed_turns: int = 0

    def add(self, record: Record) -> None:
        """Count one episode."""
        trajectory = record.trajectory
        if "user" in trajectory.info:
            self.users.add(str(trajectory.info["user"]))
        if not evaluable(trajectory):
            self.broken += 1
            return
        if "do_nothing_succeeds" in trajectory.info:
            self.floors.append(bool(trajectory.info["do_nothing_succeeds"]))
        self.episodes += 1
        self.successes += succeeded(trajectory)
        self.turns += len(trajectory.turns)
        self.reward += trajectory.reward
        self.malformed_turns += sum(turn.malformed is not None for turn in trajectory.turns)
        if record.reflection is not None:
            self.reflected_turns += len(trajectory.turns)
            self.diagnosed_turns += sum(one is not None for one in record.reflection.diagnoses)

    @property
    def name(self) -> str:
        """The stage, with the step of an evaluation."""
        return self.stage if self.step is None else f"{self.stage}, step {self.step}"

    @property
    def success(self) -> float | None:
        """Fraction of episodes that succeeded; like the other means, ``None`` without episodes."""
        return self.successes / self.episodes if self.episodes else None

    @property
    def floor(self) -> float | None:
        """Success rate of doing nothing on the same episodes; ``None`` if the environment does not report it."""
        return sum(self.floors) / len(self.floors) if self.floors else None

    @property
    def mean_reward(self) -> float | None:
        """Mean final reward."""
        return self.reward / self.episodes if self.episodes else None

    @property
    def turns_per_episode(self) -> float | None:
        """Mean number of assistant turns."""
        return self.turns / self.episodes if self.episodes else None

    @property
    def coverage(self) -> float | None:
        """Fraction of reflected turns with a usable diagnosis; ``None`` without reflections."""
        return self.diagnosed_turns / self.reflected_turns if self.reflected_turns else None

    @property
    def malformed(self) -> float | None:
        """Fraction of turns whose reply could not be parsed as an action; ``None`` without turns."""
        return self.malformed_turns / self.turns if self.turns else None


class Summaries:
    """All summaries of a file: one of training, and one per step of each evaluated stage."""

    def __init__(self) -> None:
        self._stages: dict[str, dict[int | None, StageSummary]] = {}

    def add(self, record: Record) -> None:
        """Count one episode."""
        step = None if record.stage in WITHOUT_STEPS else record.step
        steps = self._stages.setdefault(record.stage, {})
        steps.setdefault(step, StageSummary(record.stage, step)).add(record)

    @property
    def stages(self) -> list[str]:
        """Names of the stages, in the order of the file."""
        return list(self._stages)

    def shown(self, stage: str | None = None) -> list[StageSummary]:
        """The summary of training; of each evaluated stage those of the first and of the last step.

        Args:
            stage: This stage only; default: all.
        """
        result: list[StageSummary] = []
        for name, steps in self._stages.items():
            if stage not in (None, name):
                continue
            first, *others = sorted(steps.values(), key=lambda one: one.step or 0)
            result += [first, *(replace(one, last_of=len(steps) if len(steps) > 2 else 0) for one in others[-1:])]
        return result
