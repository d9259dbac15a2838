"""The policy reviews its own episodes: HERO's default reflector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from hero_pl.errors import ConfigError, ReflectionError, check_choice
from hero_pl.policy.sampling import Constraint, Sampling
from hero_pl.reflection.base import Reflector
from hero_pl.reflection.grammar import ReviewGrammar, grammar_package, review_lines, review_schema
from hero_pl.reflection.parse import AnswerForm, LeakPolicy
from hero_pl.reflection.prompt import TOKENS_PER_TURN, ReflectorRequest, answer_tokens, lines_request, requests
from hero_pl.reflection.review import Answer, OnInvalid, Question, Review
from hero_pl.rollout.specs import SeedPurpose, derive_seeds
from hero_pl.types import FinishReason, Reflection, Trajectory

if TYPE_CHECKING:
    from hero_pl.chat.dialect import Dialect
    from hero_pl.policy.base import Copies, Policy

REVIEW = "review: reward {reward:.2f}, {turns} turns"
"""Request appended to the trajectory in ``continue`` mode."""


class SelfReflector(Reflector):
    """Asks the policy itself, in batches; greedy by default.

    Args:
        weights: ``live``, or ``initial``: the weights at the start of training, which do not degrade with the student.
        mode: ``transcript`` shows the episode as quoted text in a new conversation; ``continue`` appends a short
            request to the ids of the episode, for small policies that were trained to answer it.
        answer: ``json``, or with ``mode: continue`` also ``lines``: one plain line per turn, for models that cannot
            write JSON. A line usually has no confidence and counts as ``medium``, so that the teacher shows its
            corrected action only with ``include_action_target: always``.
        tokens_per_turn: Maximum length of the answer, in tokens per turn; 64 are added.
        max_request_tokens: Longer episodes are reviewed in windows of turns; default: what fits into the context.
        temperature: Temperature of the first request; 0 is greedy.
        leak_policy: What to do with a diagnosis that contains later information: ``drop``, ``redact`` or ``flag``.
        leak_ngram: Number of consecutive words that count as a quotation.
        max_diagnosis_chars: Longer diagnoses are cut at the end of a sentence.
        constrained: Sample under the grammar of the answer, for models that cannot write valid JSON (needs the extra
            ``constrained``). Every turn of a window then gets a diagnosis, of any quality.
        on_invalid: ``skip`` gives no diagnosis for turns without a usable one. ``retry`` asks again, with the list of
            errors and a temperature 0.2 higher each time, and keeps the answer that covers most turns.
        retries: Maximum number of retries, with ``on_invalid: retry``.
        batch_size: Maximum number of reviews in one batch.
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
        answer: AnswerForm = "json",
    ) -> None:
        name = type(self).__name__
        check_choice(name, "weights", weights, ("live", "initial"))
        check_choice(name, "mode", mode, ("transcript", "continue"))
        check_choice(name, "answer", answer, get_args(AnswerForm))
        if answer == "lines" and mode != "continue":
            raise ConfigError(f"SelfReflector(answer='lines', mode={mode!r}): lines are asked for in mode: continue.")
        if tokens_per_turn < 1 or batch_size < 1:
            raise ConfigError(
                f"SelfReflector(tokens_per_turn={tokens_per_turn}, batch_size={batch_size}): expected at least 1 each."
            )
        if max_request_tokens is not None and max_request_tokens < 1:
            raise ConfigError(
                f"{name}(max_request_tokens={max_request_tokens}): expected at least 1, or null for what fits into the "
                "context."
            )
        self.constrained, self.answer = constrained, answer
        self._grammar: ReviewGrammar | None = None
        self.review = Review(on_invalid, retries, temperature, leak_policy, leak_ngram, max_diagnosis_chars)
        self.weights, self.mode, self.tokens_per_turn = weights, mode, tokens_per_turn
        self.max_request_tokens, self.batch_size = max_request_tokens, batch_size

    def check_policy(self, policy: Policy) -> None:
        """See :meth:`Reflector.check_policy`; the package for grammars must be installed."""
        policy.sampler.check(policy, self.weights, self.constrained)
        if self.constrained:
            grammar_package()

    @property
    def copies(self) -> Copies:
        """The initial weights, if it asks them."""
        return {"initial": None} if self.weights == "initial" else {}

    @property
    def continues(self) -> int:
        """As many as one batch of reviews, with ``mode: continue`` and live weights."""
        return self.batch_size if self.mode == "continue" and self.weights == "live" else 0

    @property
    def lends(self) -> str | None:
        """The initial weights, with ``mode: continue``."""
        return "initial" if self.mode == "continue" and self.weights == "initial" else None

    def reflect(self, trajectories: Sequence[Trajectory], policy: Policy | None) -> list[Reflection]:
        """See :meth:`Reflector.reflect`."""
        if policy is None:
            raise ReflectionError("SelfReflector needs the policy. Pass it to reflect(trajectories, policy).")
        return self.review.run(
            trajectories,
            lambda trajectory: self._plan(trajectory, policy.dialect),
            lambda questions: self._answers(questions, policy),
        )

    def _plan(self, trajectory: Trajectory, dialect: Dialect) -> list[ReflectorRequest]:
        if self.mode == "continue":
            return [ReflectorRequest((), (1, len(trajectory.turns)), form=self.answer)]
        count = dialect.template.encoder.encode_untrusted
        room = self.max_request_tokens or max(dialect.max_length // 2, 64)
        return requests(trajectory, max_size=room, count=lambda text: len(count(text)))

    def _prompt(self, question: Question, dialect: Dialect) -> tuple[int, ...]:
        """Prompt ids of the question; at a retry with the sampled ids of the earlier answer and its errors."""
        if self.mode == "continue":
            ids = review_prompt(question.trajectory, dialect, self.answer)
        else:
            ids = dialect.template.conversation(question.request.messages)
        if question.answer is None:
            return ids
        return dialect.template.next_prompt(ids, question.answer.ids, question.again.content)

    def _answers(self, questions: Sequence[Question], policy: Policy) -> list[Answer]:
        """Answer every question with enough context for an answer, in batches of ``batch_size``."""
        asked = [(one, self._prompt(one, policy.dialect)) for one in questions]
        fitting = [(one, ids) for one, ids in asked if len(ids) < policy.max_length]
        answers: list[Answer] = []
        for batch, room in self._batches(fitting, policy.max_length):
            constraint = self._constraint([one for one, _ in batch], policy) if self.constrained else None
            # all questions of a round have the same temperature
            sampling = Sampling(batch[0][0].temperature, room, constraint)
            places = [(one.trajectory.seed, one.request.window[0], one.attempt) for one, _ in batch]
            seeds = [seed for place in places for seed in derive_seeds(SeedPurpose.REFLECT, *place, count=1)]
            with policy.sampling():
                session = policy.sampler.open(policy, sampling, seeds, self.weights)
                actions = session.act(range(len(batch)), [ids for _, ids in batch])
                lost = [row for row, action in enumerate(actions) if action.finish_reason is FinishReason.ERROR]
                # asked once more, because a server that was restarted has the weights again
                for row, action in zip(lost, session.act(lost, [batch[row][1] for row in lost]), strict=True):
                    actions[row] = action
                session.close(range(len(batch)))
            answers += [
                Answer(
                    policy.template.encoder.decode(action.ids),
                    len(action.ids),
                    tuple(action.ids),
                    action.finish_reason is FinishReason.STOP,
                    # under a grammar nothing but the answer can be written
                    opened=policy.template.opens_reasoning and not self.constrained,
                    failure="sampler_error" if action.finish_reason is FinishReason.ERROR else "",
                )
                for action in actions
            ]
        answered = iter(answers)
        # The parser counts a first question without room for an answer as `no_json` or `no_lines`.
        return [
            next(answered)
            if len(ids) < policy.max_length
            else Answer("", failure="retry_too_long" if one.answer else "")
            for one, ids in asked
        ]

    def _constraint(self, questions: Sequence[Question], policy: Policy) -> Callable[[int], Constraint]:
        """The grammar of each answer; two characters per token, so that texts rarely exceed the token limit."""
        grammar = self._grammar = self._grammar or ReviewGrammar(policy)
        chars = min(self.review.max_diagnosis_chars, 2 * self.tokens_per_turn)
        form = review_lines if self.answer == "lines" else review_schema
        return lambda row: grammar.constraint(form(questions[row].trajectory, questions[row].request.window, chars))

    def _batches(
        self, asked: Sequence[tuple[Question, tuple[int, ...]]], max_length: int
    ) -> Iterator[tuple[Sequence[tuple[Question, tuple[int, ...]]], int]]:
        """Batches of questions in order, with the maximum number of tokens for their answers.

        A question with too little context for a full answer gets its own batch, so that it does not limit the others.
        """
        batch: list[tuple[Question, tuple[int, ...]]] = []
        longest = wanted = 0
        for one, ids in asked:
            need = answer_tokens(one.request.window, self.tokens_per_turn)
            both = max(longest, len(ids)) + max(wanted, need)
            if batch and (len(batch) == self.batch_size or both > max_length):
                yield batch, min(wanted, max_length - longest)
                batch, longest, wanted = [], 0, 0
            batch.append((one, ids))
            longest, wanted = max(longest, len(ids)), max(wanted, need)
        if batch:
            yield batch, min(wanted, max_length - longest)


def review_prompt(trajectory: Trajectory, dialect: Dialect, answer: AnswerForm = "json") -> tuple[int, ...]:
    """The ids of the trajectory, its last observation, and the request to review it."""
    last = trajectory.turns[-1]
    context = dialect.template.next_prompt(last.prompt_ids, last.action_ids, last.observation, last.role)
    if answer == "lines":
        request = lines_request(trajectory)
    else:
        request = REVIEW.format(reward=trajectory.reward, turns=len(trajectory.turns))
    return dialect.template.insert_hint(
        context, request, "before_action"
    )  # for any hint_position: the request is the last message
