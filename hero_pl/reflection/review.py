"""The loop of reflectors that ask a language model: windows, answers, parsing, retries, and the choice of the answer.

Such a reflector creates a :class:`Review` from its settings, and its ``reflect`` calls :meth:`Review.run` with two
functions: one returns the questions for an episode, the other one the answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from hero_pl.errors import ConfigError
from hero_pl.reflection.context import ReflectionContext
from hero_pl.reflection.parse import LeakPolicy, check_settings, parse_reflection
from hero_pl.reflection.prompt import ReflectorRequest, merge_windows, retry_message
from hero_pl.types import Message, Reflection, Trajectory

OnInvalid = Literal["skip", "retry"]

WARMER = 0.2
"""Added to the temperature at every retry: at temperature 0 the answer would be the same."""
RETRIED = ("retried", 0)
"""Issue that counts one retry."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of the model to one question."""

    text: str
    tokens: int = 0
    """Number of generated tokens."""
    ids: tuple[int, ...] = ()
    """Sampled ids, if available; a retry continues from them."""
    ended: bool = True
    """Whether it is complete, and was not cut at the token limit."""
    opened: bool = False
    """Whether the prompt opened the reasoning, so that the text begins inside it."""
    failure: str = ""
    """Issue code if there is no answer. Such a question is not asked again."""


@dataclass(slots=True)
class Question:
    """One window of one trajectory, and the best answer so far."""

    trajectory: Trajectory
    request: ReflectorRequest
    temperature: float
    """Sampling temperature; 0 is greedy."""
    attempt: int = 0
    """Number of earlier requests."""
    answer: Answer | None = None
    reflection: Reflection | None = None
    """The parsed ``answer``."""
    failed: bool = False

    @property
    def messages(self) -> tuple[Message, ...]:
        """The question as a conversation; at a retry with the earlier answer and its errors."""
        if self.answer is None:
            return self.request.messages
        return (*self.request.messages, Message("assistant", self.answer.text), self.again)

    @property
    def again(self) -> Message:
        """Message with the errors of the best answer so far."""
        assert self.reflection is not None
        return retry_message(self.reflection, self.request.window, self.request.form)


Plan: TypeAlias = Callable[[Trajectory], Sequence[ReflectorRequest]]
"""Function that returns the questions for one trajectory, one per window."""
Ask: TypeAlias = Callable[[Sequence[Question]], Sequence[Answer]]
"""Function that returns one answer per question, in order."""


class Review:
    """Asks, parses the answers, asks again if turns are missing, and joins the windows of each episode.

    Args:
        on_invalid: ``skip`` gives no diagnosis for turns without a usable one. ``retry`` asks again, with the list of
            errors and a temperature 0.2 higher each time, and keeps the answer that covers most turns.
        retries: Maximum number of retries, with ``on_invalid: retry``.
        temperature: Temperature of the first request; 0 is greedy.
        leak_policy: What to do with a diagnosis that contains later information: ``drop``, ``redact`` or ``flag``.
        leak_ngram: Number of consecutive words that count as a quotation.
        max_diagnosis_chars: Longer diagnoses are cut at the end of a sentence.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        on_invalid: OnInvalid = "skip",
        retries: int = 1,
        temperature: float = 0.0,
        leak_policy: LeakPolicy = "drop",
        leak_ngram: int = 6,
        max_diagnosis_chars: int = 800,
    ) -> None:
        if on_invalid not in get_args(OnInvalid) or retries < 1:
            raise ConfigError(
                f"on_invalid={on_invalid!r}, retries={retries}: expected one of {get_args(OnInvalid)} and at least 1; "
                "use on_invalid: skip for no retries."
            )
        if not 0.0 <= temperature < math.inf:
            raise ConfigError(f"temperature={temperature}: expected 0 (greedy) or a positive, finite number.")
        check_settings(leak_policy, leak_ngram, max_diagnosis_chars)
        self.retries = retries if on_invalid == "retry" else 0
        self.temperature = temperature
        self.leak_policy: LeakPolicy = leak_policy
        self.leak_ngram, self.max_diagnosis_chars = leak_ngram, max_diagnosis_chars

    def run(self, trajectories: Sequence[Trajectory], plan: Plan, ask: Ask) -> list[Reflection]:
        """Review every trajectory; nothing is asked about one without turns.

        Args:
            trajectories: Finished episodes.
            plan: Returns the questions for an episode.
            ask: Answers all open questions of one round.
        """
        asked = [
            [Question(trajectory, request, self.temperature) for request in plan(trajectory)]
            if trajectory.turns
            else []
            for trajectory in trajectories
        ]
        questions = [question for some in asked for question in some]
        for attempt in range(self.retries + 1):
            waiting = [one for one in questions if not one.failed and incomplete(one.reflection, one.request.window)]
            for one in waiting:
                one.attempt, one.temperature = attempt, self.temperature + WARMER * attempt
            for one, answer in zip(waiting, ask(waiting) if waiting else (), strict=True):
                self._take(one, answer)
        return [
            merge_windows(
                [question.reflection for question in some if question.reflection is not None],
                len(trajectory.turns),
                [cut for question in some for cut in question.request.cuts],
            )
            for some, trajectory in zip(asked, trajectories, strict=True)
        ]

    def _take(self, question: Question, answer: Answer) -> None:
        """Keep the better of the old and the new answer."""
        turns, before = len(question.trajectory.turns), question.reflection
        if answer.failure:
            question.failed = True
            known = before or Reflection((None,) * turns, "rejected", tokens=answer.tokens)
            question.reflection = replace(known, issues=(*known.issues, (answer.failure, 0)))
            return
        parsed = parse_reflection(
            answer.text,
            turns=turns,
            context=ReflectionContext.of(question.trajectory),
            leak_policy=self.leak_policy,
            leak_ngram=self.leak_ngram,
            max_diagnosis_chars=self.max_diagnosis_chars,
            window=question.request.window,
            form=question.request.form,
            ended=answer.ended,
            opened=answer.opened,
        )
        latest = replace(parsed, raw=answer.text, tokens=answer.tokens)
        question.reflection = latest if before is None else better_of(before, latest)
        if before is None or question.reflection.raw == answer.text:
            question.answer = answer


def incomplete(reflection: Reflection | None, window: tuple[int, int]) -> bool:
    """Whether a turn of the window has no usable diagnosis."""
    return reflection is None or not all(reflection.diagnoses[window[0] - 1 : window[1]])


def better_of(first: Reflection, second: Reflection) -> Reflection:
    """The answer that covers more turns, on a tie the earlier one; tokens and retries of both are counted."""
    better = second if sum(map(bool, second.diagnoses)) > sum(map(bool, first.diagnoses)) else first
    asked = first.issues.count(RETRIED) + 1
    issues = tuple(issue for issue in better.issues if issue != RETRIED) + (RETRIED,) * asked
    return replace(better, issues=issues, tokens=first.tokens + second.tokens)
