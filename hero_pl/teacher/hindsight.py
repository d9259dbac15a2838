"""HERO's teacher: its hints have the next observation, the final reward and the diagnosis."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from hero_pl.errors import ConfigError, check_choice
from hero_pl.reflection.target import target_reply
from hero_pl.runs.records import reaches
from hero_pl.scalars import Scalar, largest, total
from hero_pl.teacher.base import OF_POCKETS, Teacher
from hero_pl.teacher.hint_check.cases import SHORT, make_cases
from hero_pl.teacher.hint_check.report import HintReport, check_hints, refusal
from hero_pl.teacher.render import HintTemplate
from hero_pl.teacher.wordings import AUTO, Wording, own_position, wordings
from hero_pl.types import Diagnosis, Hint, HintPosition, Reflection, Trajectory, Turn

if TYPE_CHECKING:
    from hero_pl.chat.dialect import Dialect
    from hero_pl.policy.base import Policy
    from hero_pl.reflection.base import Reflector

LEVELS = {"low": 0, "medium": 1, "high": 2}


class HindsightTeacher(Teacher):
    """Shows next observation, final reward and the diagnosis of each turn (HERO, arXiv 2606.11559).

    The options give the paper's ablations: without the first two it is reflection-only.

    Args:
        include_next_observation: Show the next observation.
        include_reward: Show the final reward of the episode.
        include_diagnosis: Show the reflector's diagnosis.
        include_action_target: Show the corrected action: with ``high`` confidence only, ``always``, or ``never``.
        min_confidence: Diagnoses below this level count as missing.
        on_invalid: For a turn without a usable diagnosis: ``skip`` it, or show ``env_feedback`` only.
        success_threshold: Smallest reward of an episode that a hint calls a success, whatever ``info["success"]`` says.
        template: Wording of the hint: ``full``, ``short``, ``reply_exactly``, ``inline``, ``chat``, or the path of a
            Jinja file of your own. ``auto`` measures on the first training batch which one the policy can use
            (``docs/hints.md``), uses the best, and refuses to train if none helps.
        position: Position of the hint; default: that of the wording, else the policy's ``hint_position``.
        candidates: Wordings that ``auto`` measures; default: those of the package.
        force: With ``auto``: train with the best wording even if none helps.
        max_observation_tokens: Longer observations are cut in the middle.
        max_hint_tokens: The observation of a longer hint is cut; if that is not enough, the corrected action is left
            out. A hint whose diagnosis is too long stays longer, and is counted.
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
        position: HintPosition | None = None,
        candidates: list[str] | None = None,
        force: bool = False,
        max_observation_tokens: int = 1024,
        max_hint_tokens: int = 1536,
    ) -> None:
        if not (include_next_observation or include_reward or include_diagnosis):
            raise ConfigError("HindsightTeacher has nothing to show: set at least one include_... argument to true.")
        name = type(self).__name__
        check_choice(name, "include_action_target", include_action_target, ("high", "always", "never"))
        check_choice(name, "min_confidence", min_confidence, tuple(LEVELS))
        check_choice(name, "on_invalid", on_invalid, ("skip", "env_feedback"))
        if position is not None:
            check_choice(name, "position", position, get_args(HintPosition))
        self.include_next_observation, self.include_reward = include_next_observation, include_reward
        self.include_diagnosis, self.include_action_target = include_diagnosis, include_action_target
        self.min_confidence, self.on_invalid = min_confidence, on_invalid
        self.needs_diagnosis = on_invalid == "skip"
        self.success_threshold = success_threshold
        self.limits = (max_observation_tokens, max_hint_tokens)
        self.auto, self.force, self._unset = template == AUTO, force, template is None
        if candidates is not None and not self.auto:
            raise ConfigError(f"candidates={candidates}: only template: auto uses them; given template: {template}.")
        if self.auto and position is not None:
            raise ConfigError(f"position={position!r}: template: auto chooses it. Leave it out, or set a template.")
        self.candidates = {wording: HintTemplate(wording.template, *self.limits) for wording in wordings(candidates)}
        self.use(Wording("full" if self.auto else template or "full", position))
        self.report: HintReport | None = None
        """Report of ``auto``, if it has measured in this process."""
        self._settled = not self.auto

    def use(self, wording: Wording) -> None:
        """Use a wording from now on.

        Raises:
            ConfigError: The template cannot be read, compiled or rendered.
        """
        self.wording = replace(wording, position=wording.position or own_position(wording.template))
        self.template = HintTemplate(wording.template, *self.limits)
        self.scaffold = self.template.scaffold

    def check_policy(self, policy: Policy) -> None:
        """Warn of a wording that was neither chosen nor measured for a model from elsewhere."""
        what = "has no template: hints have the wording `full`, which many models read wrongly (docs/hints.md)"
        if not self._unset:
            what = f"has the template {self.wording.template}, a wording of the pocket policies"
        if policy.foreign and (self._unset or self.wording.template.startswith(OF_POCKETS)):
            warnings.warn(
                f"{type(self).__name__} {what}. Set teacher.init_args.template to auto (HindsightTeacher), to the "
                "wording that hero_pl check-hints finds for this policy, or to that of the run to compare with "
                "(`taken` in its hint_check.json).",
                stacklevel=2,
            )

    def check_reflector(self, reflector: Reflector) -> None:
        """See :meth:`Teacher.check_reflector`; ``auto`` measures by corrected actions, which controls take away."""
        super().check_reflector(reflector)
        if self.auto and reflector.removes_targets:
            raise ConfigError(
                f"template: auto measures wordings by the corrected actions of the diagnoses, and "
                f"{type(reflector).__name__} takes them away. A control needs the wording of the run that it is "
                "compared with: set teacher.init_args.template and position to that (`taken` in its hint_check.json)."
            )

    def settle(self, trajectories: Sequence[Trajectory], reflections: Sequence[Reflection], policy: Policy) -> None:
        """With ``auto``, measure the candidates on the first batch and use the best, the same on all ranks.

        Raises:
            ConfigError: No wording helps, and ``force`` is not set; the message has the table.
        """
        if self._settled:
            return
        cases = make_cases(trajectories, reflections, self.facts, policy.dialect)
        self.report = report = check_hints(cases, self.candidates, policy, SHORT)
        if report.best is None and not self.force:
            raise ConfigError(refusal(report))
        self.use((report.best or report.first).wording)
        self._settled = True

    def advise(
        self, trajectories: Sequence[Trajectory], reflections: Sequence[Reflection], dialect: Dialect
    ) -> list[list[Hint | None]]:
        """See :meth:`Teacher.advise`."""
        self.template.cut_observations = self.template.dropped_targets = self.template.long_hints = 0
        return [
            [
                self._hint(trajectory, turn, self._usable(diagnosis), dialect)
                for turn, diagnosis in zip(trajectory.turns, reflection.diagnoses, strict=True)
            ]
            for trajectory, reflection in zip(trajectories, reflections, strict=True)
        ]

    def metrics(self) -> dict[str, Scalar]:
        """What the last :meth:`advise` cut and left out, hints above the limit, and the cost of ``auto`` so far."""
        counts = {
            "cut_observations": total(self.template.cut_observations),
            "dropped_targets": total(self.template.dropped_targets),
            "long_hints": total(self.template.long_hints),
        }
        if self.report is not None:
            # the report is that of all processes
            counts |= {"hint_check_tokens": largest(self.report.tokens), "hint_check_s": largest(self.report.seconds)}
        return counts

    def state_dict(self) -> dict[str, Any]:
        """The wording chosen by ``auto``, so that a resumed run does not measure again."""
        return {"wording": [self.wording.template, self.wording.position]} if self.auto and self._settled else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        if self.auto and "wording" in state:
            self.use(Wording(*state["wording"]))
            self._settled = True

    def _usable(self, diagnosis: Diagnosis | None) -> Diagnosis | None:
        if diagnosis is None or LEVELS[diagnosis.confidence] < LEVELS[self.min_confidence]:
            return None
        return diagnosis

    def _hint(self, trajectory: Trajectory, turn: Turn, diagnosis: Diagnosis | None, dialect: Dialect) -> Hint | None:
        if diagnosis is None and self.on_invalid == "skip":
            return None
        if diagnosis is None and not (self.include_next_observation and turn.observation.strip()):
            return None
        failed = diagnosis is not None and diagnosis.blames
        return Hint(
            turn.number,
            self._text(trajectory, turn, diagnosis, dialect),
            diagnosis.confidence if diagnosis else "high",
            failed,
            self._verdict(diagnosis, dialect),
            self.wording.position,
            self.scaffold,
        )

    def _text(self, trajectory: Trajectory, turn: Turn, diagnosis: Diagnosis | None, dialect: Dialect) -> str:
        encoder = dialect.template.encoder
        facts = self.facts(trajectory, turn, diagnosis, dialect)
        return self.template.render(lambda words: len(encoder.encode_untrusted(words)), facts)

    def facts(
        self, trajectory: Trajectory, turn: Turn, diagnosis: Diagnosis | None, dialect: Dialect
    ) -> dict[str, Any]:
        """Content of the hint of a turn, by the names for templates."""
        target = diagnosis.next_action_target if diagnosis and self._shows_target(diagnosis) else None
        return {
            "next_observation": turn.observation.strip() if self.include_next_observation else "",
            "reward": f"{trajectory.reward:.2f}" if self.include_reward else None,
            "outcome": self._outcome(trajectory),
            "diagnosis": diagnosis.text if diagnosis and self.include_diagnosis else None,
            "confidence": diagnosis.confidence if diagnosis else None,
            "target": target_reply(target, dialect.parser) if target else None,
        }

    def _verdict(self, diagnosis: Diagnosis | None, dialect: Dialect) -> str | None:
        """See :attr:`Hint.target`."""
        if diagnosis is None or not self.include_diagnosis:
            return None
        if diagnosis.next_action_target is not None:
            return target_reply(diagnosis.next_action_target, dialect.parser)
        return None if diagnosis.was_failure else ""

    def _shows_target(self, diagnosis: Diagnosis) -> bool:
        if not self.include_diagnosis or self.include_action_target == "never":
            return False
        return self.include_action_target == "always" or diagnosis.confidence == "high"

    def _outcome(self, trajectory: Trajectory) -> str:
        if reaches(trajectory, self.success_threshold):
            return "success"
        return "partial" if trajectory.reward > 0.0 else "failure"


class FeedbackOnlyTeacher(HindsightTeacher):
    """Shows next observation and final reward, but no diagnosis (the Env-Feedback-Only baseline).

    Args:
        mask_like_hero: Use exactly the turns that have a diagnosis, for an ablation on equal turns (where the
            observation is empty, the hint has the final reward only); otherwise every turn whose observation is not
            empty.
        success_threshold: Smallest reward of an episode that a hint calls a success, whatever ``info["success"]`` says.
        template: Wording of the hint, as in :class:`HindsightTeacher`, except ``auto``, which needs diagnoses.
        max_observation_tokens: Longer observations are cut in the middle.
        max_hint_tokens: The observation of a longer hint is cut.
    """

    def __init__(
        self,
        mask_like_hero: bool = False,
        success_threshold: float = 1.0,
        template: str | None = None,
        max_observation_tokens: int = 1024,
        max_hint_tokens: int = 1536,
    ) -> None:
        if template == AUTO:
            raise ConfigError(
                "FeedbackOnlyTeacher(template='auto'): auto chooses by the effect of diagnoses, and this teacher shows "
                "none. Set the wording that hero_pl check-hints found for the policy."
            )
        super().__init__(
            include_diagnosis=False,
            on_invalid="skip" if mask_like_hero else "env_feedback",
            success_threshold=success_threshold,
            template=template,
            max_observation_tokens=max_observation_tokens,
            max_hint_tokens=max_hint_tokens,
        )

    def _hint(self, trajectory: Trajectory, turn: Turn, diagnosis: Diagnosis | None, dialect: Dialect) -> Hint | None:
        if self.on_invalid == "env_feedback" and not turn.observation.strip():  # not with HERO's mask
            return None
        return super()._hint(trajectory, turn, diagnosis, dialect)


class EmptyHintTeacher(HindsightTeacher):
    """Shows the wording of the hint with nothing in it, on the same turns: a control for the wording alone.

    Its arguments are those of :class:`HindsightTeacher`; the content they choose decides only which turns have a hint.
    """

    def _text(self, trajectory: Trajectory, turn: Turn, diagnosis: Diagnosis | None, dialect: Dialect) -> str:
        return self.scaffold

    def _verdict(self, diagnosis: Diagnosis | None, dialect: Dialect) -> str | None:
        return None
