"""HERO's teacher: it sees what came of the decision, and what the reflector says about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from hero_pl.errors import ConfigError
from hero_pl.reflection.target import canonical_action
from hero_pl.runs.records import succeeded
from hero_pl.scalars import Scalar, total
from hero_pl.teacher.base import Teacher
from hero_pl.teacher.render import HintTemplate
from hero_pl.types import Diagnosis, Hint, Reflection, Trajectory, Turn

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy

LEVELS = {"low": 0, "medium": 1, "high": 2}


class HindsightTeacher(Teacher):
    """Sees next observation, final reward and the diagnosis of each turn (HERO, arXiv 2606.11559).

    The switches turn it into the paper's ablations: without the first two it is reflection-only.

    Args:
        include_next_observation: Show what the environment answered.
        include_reward: Show the final reward of the episode.
        include_diagnosis: Show the reflector's diagnosis.
        include_action_target: Show the corrected action: of ``high`` confidence diagnoses only, ``always``, ``never``.
        min_confidence: Diagnoses below this level count as missing.
        on_invalid: What to do with a turn without a usable diagnosis: ``skip`` it, or show ``env_feedback`` only.
        success_threshold: A reward at least this high is a success.
        template: Path of a hint template of your own.
        max_observation_tokens: Longer observations are cut in the middle.
        max_hint_tokens: Of the whole hint.
    """

    def __init__(
        self,
        include_next_observation: bool = True,
        include_reward: bool = True,
        include_diagnosis: bool = True,
        include_action_target: Literal["high", "always", "never"] = "high",
        min_confidence: Literal["low", "medium", "high"] = "low",
        on_invalid: Literal["skip", "env_feedback"] = "skip",
        success_threshold: float = 1.0,
        template: str | None = None,
        max_observation_tokens: int = 1024,
        max_hint_tokens: int = 1536,
    ) -> None:
        if not (include_next_observation or include_reward or include_diagnosis):
            raise ConfigError("HindsightTeacher would see nothing: switch on at least one include_... argument.")
        self.include_next_observation, self.include_reward = include_next_observation, include_reward
        self.include_diagnosis, self.include_action_target = include_diagnosis, include_action_target
        self.min_confidence, self.on_invalid = min_confidence, on_invalid
        self.needs_diagnosis = on_invalid == "skip"
        self.success_threshold = success_threshold
        self.template = HintTemplate(template, max_observation_tokens, max_hint_tokens)

    def advise(
        self, trajectories: Sequence[Trajectory], reflections: Sequence[Reflection], policy: Policy
    ) -> list[list[Hint | None]]:
        """See :meth:`Teacher.advise`."""
        self.template.cut_observations = self.template.dropped_targets = 0
        return [
            [
                self._hint(trajectory, turn, self._usable(diagnosis), policy)
                for turn, diagnosis in zip(trajectory.turns, reflection.diagnoses, strict=True)
            ]
            for trajectory, reflection in zip(trajectories, reflections, strict=True)
        ]

    def metrics(self) -> dict[str, Scalar]:
        """Observations cut and targets left out by the last :meth:`advise`, for want of room."""
        template = self.template
        return {
            "cut_observations": total(template.cut_observations),
            "dropped_targets": total(template.dropped_targets),
        }

    def _usable(self, diagnosis: Diagnosis | None) -> Diagnosis | None:
        if diagnosis is None or LEVELS[diagnosis.confidence] < LEVELS[self.min_confidence]:
            return None
        return diagnosis

    def _hint(self, trajectory: Trajectory, turn: Turn, diagnosis: Diagnosis | None, policy: Policy) -> Hint | None:
        if diagnosis is None and self.on_invalid == "skip":
            return None
        observation = turn.observation if self.include_next_observation else ""
        if diagnosis is None and not observation:
            return None
        target = None
        if diagnosis is not None and diagnosis.next_action_target is not None and self._shows_target(diagnosis):
            target = policy.parser.reply(canonical_action(diagnosis.next_action_target))
        encoder = policy.template.encoder
        text = self.template.render(
            lambda words: len(encoder.encode_untrusted(words)),
            {
                "next_observation": observation.strip(),
                "reward": f"{trajectory.reward:.2f}" if self.include_reward else None,
                "outcome": self._outcome(trajectory),
                "diagnosis": diagnosis.text if diagnosis and self.include_diagnosis else None,
                "confidence": diagnosis.confidence if diagnosis else None,
                "target": target,
            },
        )
        return Hint(
            turn.number,
            text,
            diagnosis.confidence if diagnosis else "high",
            bool(diagnosis and (diagnosis.next_action_target or diagnosis.was_failure)),
        )

    def _shows_target(self, diagnosis: Diagnosis) -> bool:
        if not self.include_diagnosis or self.include_action_target == "never":
            return False
        return self.include_action_target == "always" or diagnosis.confidence == "high"

    def _outcome(self, trajectory: Trajectory) -> str:
        if succeeded(trajectory, self.success_threshold):
            return "success"
        return "partial" if trajectory.reward > 0.0 else "failure"


class FeedbackOnlyTeacher(HindsightTeacher):
    """Sees next observation and final reward, no diagnosis (the Env-Feedback-Only baseline).

    Args:
        mask_like_hero: Use only the turns that have a diagnosis, for an ablation on equal turns; otherwise every turn
            whose observation is not empty.
        success_threshold: A reward at least this high is a success.
        template: Path of a hint template of your own.
        max_observation_tokens: Longer observations are cut in the middle.
        max_hint_tokens: Of the whole hint.
    """

    def __init__(
        self,
        mask_like_hero: bool = False,
        success_threshold: float = 1.0,
        template: str | None = None,
        max_observation_tokens: int = 1024,
        max_hint_tokens: int = 1536,
    ) -> None:
        super().__init__(
            include_diagnosis=False,
            on_invalid="skip" if mask_like_hero else "env_feedback",
            success_threshold=success_threshold,
            template=template,
            max_observation_tokens=max_observation_tokens,
            max_hint_tokens=max_hint_tokens,
        )

    def _hint(self, trajectory: Trajectory, turn: Turn, diagnosis: Diagnosis | None, policy: Policy) -> Hint | None:
        if not turn.observation.strip():
            return None
        return super()._hint(trajectory, turn, diagnosis, policy)
