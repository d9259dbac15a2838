"""The policy reviews its own episodes: HERO's default reflector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from hero_pl.errors import ConfigError, ReflectionError
from hero_pl.policy.base import Constraint, Sampling
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.context import ReflectionContext
from hero_pl.reflection.grammar import ReviewGrammar, review_schema
from hero_pl.reflection.parse import LeakPolicy, parse_reflection
from hero_pl.reflection.prompt import TOKENS_PER_TURN, answer_tokens, merge_windows, requests, retry_message
from hero_pl.reflection.retry import WARMER, OnInvalid, better_of, incomplete
from hero_pl.rollout.specs import SeedPurpose, derive_seeds
from hero_pl.types import Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy

REVIEW = "review: reward {reward:.2f}, {turns} turns"
"""Request that is appended to the trajectory in ``continue`` mode."""


@dataclass(slots=True)
class _Question:
    """One window of one trajectory, and what has been answered so far."""

    trajectory: Trajectory
    window: tuple[int, int]
    ids: tuple[int, ...]
    cuts: tuple[tuple[str, int], ...] = ()
    """What the question does not show, as issues."""
    answer: Reflection | None = None
    answer_ids: tuple[int, ...] = ()
    """What was sampled for ``answer``."""

    def prompt(self, policy: Policy) -> tuple[int, ...]:
        """The question, or, after an answer, the answer as it was sampled and what was wrong with it."""
        if self.answer is None:
            return self.ids
        return policy.template.next_prompt(self.ids, self.answer_ids, retry_message(self.answer, self.window).content)


class SelfReflector(Reflector):
    """Asks the policy itself, in one batch, greedily unless told otherwise.

    Args:
        weights: ``live``, or ``initial``: the weights at the start of training, which do not degrade with the student.
        mode: ``transcript`` shows the episode as material to review in a conversation of its own; ``continue`` appends
            a short request to the episode's own ids, for small policies that were trained to answer it.
        tokens_per_turn: Room for the answer, in tokens per turn; 64 more are added.
        max_request_tokens: Longer episodes are reviewed in windows of turns; default: what fits into the context.
        temperature: Of the first question; 0 is greedy.
        leak_policy: What happens to a diagnosis that tells the future: ``drop``, ``redact`` or ``flag``.
        leak_ngram: Words in a row that count as quoted.
        max_diagnosis_chars: Longer diagnoses are cut at a sentence end.
        constrained: Draw only what the format of the answer allows, for models that cannot keep to it (needs the extra
            ``constrained``). Every turn of a window gets an answer then, whatever it is worth.
        on_invalid: ``skip`` leaves turns without a usable diagnosis out. ``retry`` asks again, with the list of errors
            and a temperature 0.2 higher each time, and keeps the answer that covers most turns.
        retries: Further questions at most, with ``on_invalid: retry``.
        batch_size: Reviews in one batch.
    """

    def __init__(
        self,
        weights: Literal["live", "initial"] = "live",
        mode: Literal["transcript", "continue"] = "transcript",
        tokens_per_turn: int = TOKENS_PER_TURN,
        max_request_tokens: int | None = None,
        leak_policy: LeakPolicy = "drop",
        batch_size: int = 64,
        on_invalid: OnInvalid = "skip",
        retries: int = 1,
        temperature: float = 0.0,
        leak_ngram: int = 6,
        max_diagnosis_chars: int = 800,
        constrained: bool = False,
    ) -> None:
        if tokens_per_turn < 1 or batch_size < 1:
            raise ConfigError(
                f"SelfReflector(tokens_per_turn={tokens_per_turn}, batch_size={batch_size}): both must be at least 1."
            )
        if on_invalid not in get_args(OnInvalid) or retries < 1:
            raise ConfigError(
                f"SelfReflector(on_invalid={on_invalid!r}, retries={retries}): expected one of {get_args(OnInvalid)} "
                "and at least 1; on_invalid: skip asks once only."
            )
        if temperature < 0:
            raise ConfigError(f"SelfReflector(temperature={temperature}): expected 0 (greedy) or more.")
        self.temperature, self.leak_ngram, self.max_diagnosis_chars = temperature, leak_ngram, max_diagnosis_chars
        self.constrained = constrained
        self._grammar: ReviewGrammar | None = None
        self.retries = retries if on_invalid == "retry" else 0
        self.weights, self.mode, self.tokens_per_turn = weights, mode, tokens_per_turn
        self.max_request_tokens, self.leak_policy, self.batch_size = max_request_tokens, leak_policy, batch_size

    def start(self, policy: Policy) -> None:
        """Keep the initial weights, if they are to reflect."""
        if self.weights == "initial":
            keep = getattr(policy, "keep", None)
            if keep is None:
                raise ConfigError(f"SelfReflector(weights='initial'): {type(policy).__name__} cannot keep a copy.")
            keep("initial")

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """See :meth:`Reflector.reflect`."""
        if policy is None:
            raise ReflectionError("SelfReflector asks the policy, and none was given.")
        asked = [self._questions(trajectory, policy) if trajectory.turns else [] for trajectory in trajectories]
        questions = [question for some in asked for question in some]
        self._ask(questions, policy, 0)
        for attempt in range(1, self.retries + 1):
            again = [one for one in questions if one.answer is not None and incomplete(one.answer, one.window)]
            self._ask(again, policy, attempt)
        return [
            merge_windows(
                [question.answer for question in some if question.answer is not None],
                len(trajectory.turns),
                [cut for question in some for cut in question.cuts],
            )
            for some, trajectory in zip(asked, trajectories, strict=True)
        ]

    def _questions(self, trajectory: Trajectory, policy: Policy) -> list[_Question]:
        if self.mode == "continue":
            return [_Question(trajectory, (1, len(trajectory.turns)), review_prompt(trajectory, policy))]
        count = policy.template.encoder.encode_untrusted
        room = self.max_request_tokens or max(policy.max_length // 2, 64)
        asked = requests(trajectory, max_size=room, count=lambda text: len(count(text)))
        return [
            _Question(trajectory, request.window, policy.template.conversation(request.messages), request.cuts)
            for request in asked
        ]

    def _ask(self, questions: Sequence[_Question], policy: Policy, attempt: int) -> None:
        """Answer every question, ``batch_size`` at a time; the better of old and new answer stays."""
        asked = [(one, one.prompt(policy)) for one in questions]
        fitting = [(one, ids) for one, ids in asked if len(ids) < policy.max_length]
        for batch, room in self._batches(fitting, policy.max_length):
            constraint = self._constraint([one for one, _ in batch], policy) if self.constrained else None
            sampling = Sampling(self.temperature + WARMER * attempt, room, constraint)
            places = [(one.trajectory.seed, one.window[0], attempt) for one, _ in batch]
            seeds = [seed for place in places for seed in derive_seeds(SeedPurpose.REFLECT, *place, count=1)]
            with policy.sampling():
                session = policy.sampler.open(policy, sampling, seeds, self.weights)
                actions = session.act(range(len(batch)), [ids for _, ids in batch])
            for (one, _), action in zip(batch, actions, strict=True):
                self._take(one, policy.template.encoder.decode(action.ids), action.ids)
        for one, ids in asked:
            if one.answer is None:  # no room for an answer: counted as `no_json` by the parser
                self._take(one, "", ())
            elif len(ids) >= policy.max_length:
                one.answer = replace(one.answer, issues=(*one.answer.issues, ("retry_too_long", 0)))

    def _constraint(self, questions: Sequence[_Question], policy: Policy) -> Callable[[int], Constraint]:
        """The format of each answer; a token is seldom less than two letters, so texts end within their room."""
        grammar = self._grammar = self._grammar or ReviewGrammar(policy)
        chars = min(self.max_diagnosis_chars, 2 * self.tokens_per_turn)
        return lambda row: grammar.constraint(review_schema(questions[row].trajectory, questions[row].window, chars))

    def _batches(
        self, asked: Sequence[tuple[_Question, tuple[int, ...]]], max_length: int
    ) -> Iterator[tuple[Sequence[tuple[_Question, tuple[int, ...]]], int]]:
        """Neighboring questions that leave each other room for a whole answer, and that room.

        A question that has too little room by itself is asked alone, so that it takes none from the others.
        """
        batch: list[tuple[_Question, tuple[int, ...]]] = []
        longest = wanted = 0
        for one, ids in asked:
            need = answer_tokens(one.window, self.tokens_per_turn)
            both = max(longest, len(ids)) + max(wanted, need)
            if batch and (len(batch) == self.batch_size or both > max_length):
                yield batch, min(wanted, max_length - longest)
                batch, longest, wanted = [], 0, 0
            batch.append((one, ids))
            longest, wanted = max(longest, len(ids)), max(wanted, need)
        if batch:
            yield batch, min(wanted, max_length - longest)

    def _take(self, question: _Question, text: str, ids: tuple[int, ...]) -> None:
        parsed = parse_reflection(
            text,
            turns=len(question.trajectory.turns),
            context=ReflectionContext.of(question.trajectory),
            leak_policy=self.leak_policy,
            leak_ngram=self.leak_ngram,
            max_diagnosis_chars=self.max_diagnosis_chars,
            window=question.window,
        )
        latest = replace(parsed, raw=text, tokens=len(ids))
        best = latest if question.answer is None else better_of(question.answer, latest)
        if best.raw == text:
            question.answer_ids = ids
        question.answer = best


def review_prompt(trajectory: Trajectory, policy: Policy) -> tuple[int, ...]:
    """The trajectory's own ids, its last observation, and the request to review it."""
    last = trajectory.turns[-1]
    context = policy.template.next_prompt(last.prompt_ids, last.action_ids, last.observation, last.role)
    request = REVIEW.format(reward=trajectory.reward, turns=len(trajectory.turns))
    return policy.template.insert_hint(
        context, request, "before_action"
    )  # wherever hints go: it is the last thing said
