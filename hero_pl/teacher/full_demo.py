"""A teacher with a full successful episode of the task in its context (as in SDPO).

The demonstration is another episode, so its states may differ from the student's. The ``state_matched`` variant shows a
step only if all earlier observations are the same.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from hero_pl.chat.dialect import Dialect
from hero_pl.chat.reasoning import without_thinking
from hero_pl.errors import ConfigError
from hero_pl.rollout.demonstrations import Demonstrations
from hero_pl.rollout.specs import EpisodeSpec
from hero_pl.runs.records import reaches
from hero_pl.scalars import Scalar, total
from hero_pl.teacher.base import OF_POCKETS, Teacher
from hero_pl.teacher.render import load_template, shorten
from hero_pl.types import Hint, Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy
    from hero_pl.rollout.collect import Collector

Source: TypeAlias = Literal["peer", "buffer", "oracle"]

_ROOM = (2048, 1024, 512, 256, 128, 64, 32, 16)
"""Token limits per reply to try, in order, for a demonstration that is too long."""


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of a demonstration."""

    number: int
    action: str
    """Action without reasoning, in the policy's action format."""
    observation: str


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A successful episode as text."""

    env_id: str
    task_id: str
    task: str
    """The first observation."""
    steps: tuple[Step, ...]

    def seen(self, turns: int) -> tuple[str, ...]:
        """Observations before turn ``turns + 1``."""
        return (self.task, *(step.observation for step in self.steps[:turns]))


SAMPLE: dict[str, Any] = {"task": "task", "steps": [Step(1, "action", "observation"), Step(2, "action", "")]}
"""Content with which a template is tried when it is read."""


class FullDemoTeacher(Teacher):
    """Shows one successful episode of the same task at every turn; needs no diagnosis.

    An episode without a demonstration is not in the loss. If there are several demonstrations, one is drawn at random.

    Args:
        source: ``peer``: another episode of the batch (needs groups). ``buffer``: also episodes of earlier batches.
            ``oracle``: the episode of ``expert``.
        expert: Plays tasks for ``oracle``: ``ShopExpert`` in the pocket shop, ``ExpertDemonstrations`` elsewhere.
        state_matched: Show only the step with the same earlier observations as the turn; a turn without such a step is
            not in the loss.
        success_threshold: Smallest reward of a demonstration, whatever ``info["success"]`` says.
        max_demonstration_tokens: Maximum length of the hint. Replies are shortened first; if the actions alone are too
            long, the demonstration is not used.
        buffer_size: Number of demonstrations that ``buffer`` keeps; the newest are kept.
        template: Path of your own template, with ``task`` and ``steps`` (``number``, ``action``, ``observation``).
        seed: Seed for drawing demonstrations.
    """

    def __init__(
        self,
        source: Source = "peer",
        expert: Demonstrations | None = None,
        state_matched: bool = False,
        success_threshold: float = 1.0,
        max_demonstration_tokens: int = 10240,
        buffer_size: int = 1024,
        template: str | None = None,
        seed: int = 0,
    ) -> None:
        if source not in get_args(Source):
            raise ConfigError(f"FullDemoTeacher(source={source!r}): expected one of {', '.join(get_args(Source))}.")
        if (source == "oracle") != (expert is not None):
            raise ConfigError(
                f"FullDemoTeacher(source={source!r}, expert={expert}): expected an expert with source: oracle, and "
                "none otherwise. Use ShopExpert for the pocket shop, ExpertDemonstrations for your own expert."
            )
        if buffer_size < 1 or max_demonstration_tokens < 16:
            raise ConfigError(
                f"buffer_size={buffer_size}, max_demonstration_tokens={max_demonstration_tokens}: expected at least 1 "
                "and 16."
            )
        self.source, self.expert, self.state_matched = source, expert, state_matched
        self.success_threshold, self.max_demonstration_tokens = success_threshold, max_demonstration_tokens
        self.needs_group, self.needs_success = 2 if source == "peer" else 1, source != "oracle"
        self.template = load_template(template, "demonstration.jinja", SAMPLE)
        self._of_pockets = (template or "").startswith(OF_POCKETS)
        self.seed = seed
        self.calls = 0
        self.buffer: deque[Demonstration] = deque(maxlen=buffer_size)
        self.counts: Counter[str] = Counter()
        self._collector: Collector | None = None

    def attach_collector(self, collector: Collector) -> None:
        """Set the environments that the expert plays."""
        self._collector = collector

    def check_policy(self, policy: Policy) -> None:
        """Warn of a wording that only the pocket policies have learned."""
        if self._of_pockets and policy.foreign:
            warnings.warn(
                "FullDemoTeacher has a template of the pocket policies, which this model has not learned. Leave "
                "teacher.init_args.template out, or name your own.",
                stacklevel=2,
            )

    def advise(
        self, trajectories: Sequence[Trajectory], reflections: Sequence[Reflection], dialect: Dialect
    ) -> list[list[Hint | None]]:
        """See :meth:`Teacher.advise`; the reflections are not used."""
        rng = random.Random(f"{self.seed}/{self.calls}")
        self.calls += 1
        self.counts = Counter(
            dict.fromkeys(("no_demonstration", "long_demonstrations", "cut_demonstrations", "unmatched_turns"), 0)
        )
        candidates = self._candidates(trajectories, dialect)
        hints = [self._hints(t, own, dialect, rng) for t, own in zip(trajectories, candidates, strict=True)]
        if self.source == "buffer":
            self.buffer.extend(self._successes(trajectories, dialect).values())
        return hints

    def metrics(self) -> dict[str, Scalar]:
        """Episodes without a demonstration, turns without a matching step, demonstrations cut or too long."""
        return {name: total(count) for name, count in self.counts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Number of batches (which determines the next draw) and buffer; an expert has no state."""
        return {"calls": self.calls, "buffer": [asdict(demonstration) for demonstration in self.buffer]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.calls = int(state["calls"])
        self.buffer.clear()
        for kept in state["buffer"]:
            self.buffer.append(Demonstration(**{**kept, "steps": tuple(Step(**step) for step in kept["steps"])}))

    # -- finding demonstrations ---------------------------------------------------------------------------------

    def _candidates(self, trajectories: Sequence[Trajectory], dialect: Dialect) -> list[list[Demonstration]]:
        """Per trajectory the demonstrations of its task, without the trajectory itself."""
        if self.source == "oracle":
            return self._played(trajectories, dialect)
        successes = self._successes(trajectories, dialect)
        return [
            [
                demonstration
                for k, demonstration in [*successes.items(), *((-1, kept) for kept in self.buffer)]
                if k != i and (demonstration.env_id, demonstration.task_id) == (t.env_id, t.task_id)
            ]
            for i, t in enumerate(trajectories)
        ]

    def _successes(self, trajectories: Sequence[Trajectory], dialect: Dialect) -> dict[int, Demonstration]:
        return {
            i: _demonstration(trajectory, dialect)
            for i, trajectory in enumerate(trajectories)
            if reaches(trajectory, self.success_threshold)
        }

    def _played(self, trajectories: Sequence[Trajectory], dialect: Dialect) -> list[list[Demonstration]]:
        """Episodes of the expert for each task; failed ones are not used."""
        assert self.expert is not None
        if self._collector is None:
            raise ConfigError(
                "FullDemoTeacher(source='oracle') needs environments to play: train with a RolloutDataModule, or call "
                "attach_collector(collector) before the first batch."
            )
        specs = {(t.task_id, t.seed): EpisodeSpec(t.task_id, t.group, t.seed) for t in trajectories}
        played = self.expert.make(list(specs.values()), dialect, self._collector)
        by_task = {
            (t.task_id, t.seed): _demonstration(t, dialect) for t in played if reaches(t, self.success_threshold)
        }
        return [[by_task[t.task_id, t.seed]] if (t.task_id, t.seed) in by_task else [] for t in trajectories]

    # -- showing them ---------------------------------------------------------------------------------------------

    def _hints(
        self, trajectory: Trajectory, candidates: list[Demonstration], dialect: Dialect, rng: random.Random
    ) -> list[Hint | None]:
        if not candidates:
            self.counts["no_demonstration"] += 1
            return [None] * len(trajectory.turns)
        if self.state_matched:
            return [self._matched(trajectory, turn, candidates, dialect, rng) for turn in range(len(trajectory.turns))]
        chosen = rng.choice(candidates)
        text = self._render(chosen.task, chosen.steps, dialect)
        return [Hint(turn.number, text) if text is not None else None for turn in trajectory.turns]

    def _matched(
        self, trajectory: Trajectory, turn: int, candidates: list[Demonstration], dialect: Dialect, rng: random.Random
    ) -> Hint | None:
        seen = (trajectory.first_observation, *(earlier.observation for earlier in trajectory.turns[:turn]))
        fitting = [d for d in candidates if len(d.steps) > turn and d.seen(turn) == seen]
        if not fitting:
            self.counts["unmatched_turns"] += 1
            return None
        chosen = rng.choice(fitting)
        text = self._render(chosen.task, chosen.steps[turn : turn + 1], dialect)
        return None if text is None else Hint(turn + 1, text)

    def _render(self, task: str, steps: Sequence[Step], dialect: Dialect) -> str | None:
        def count(words: str) -> int:
            return len(dialect.template.encoder.encode_untrusted(words))

        def block(room: int | None) -> str:
            shown = [
                Step(s.number, s.action, s.observation if room is None else shorten(count, s.observation, room))
                for s in steps
            ]
            return str(self.template.render(task=task, steps=shown)).strip()

        for room in (None, *_ROOM, 0):
            text = block(room)
            if count(text) <= self.max_demonstration_tokens:
                self.counts["cut_demonstrations"] += room is not None
                return text
        self.counts["long_demonstrations"] += 1
        return None


def _demonstration(trajectory: Trajectory, dialect: Dialect) -> Demonstration:
    steps = tuple(
        Step(turn.number, dialect.parser.reply(without_thinking(turn.action or turn.text).strip()), turn.observation)
        for turn in trajectory.turns
    )
    return Demonstration(trajectory.env_id, trajectory.task_id, trajectory.first_observation, steps)
