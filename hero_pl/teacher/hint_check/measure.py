"""Log-probabilities of replies with every wording of a hint, in few forward passes.

All contexts of a turn share the conversation before it, so it is run once per turn
(:class:`~hero_pl.policy.branches.BranchScorer`) wherever the network allows that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from hero_pl.errors import PolicyError, TokenAlignmentError
from hero_pl.policy.branches import BranchScorer
from hero_pl.rollout.ranks import of_each
from hero_pl.teacher.hint_check.cases import Arm, Case, Facts
from hero_pl.teacher.render import HintTemplate
from hero_pl.teacher.weights import LiveWeights, TeacherWeights
from hero_pl.teacher.wordings import Wording
from hero_pl.types import ScoreRow

if TYPE_CHECKING:
    from hero_pl.chat.dialect import Dialect
    from hero_pl.policy.base import Policy

NEW_TOKENS, SCORED_TOKENS = 8192, 2048
"""Ids behind the shared context, and ids whose logits exist at the same time, of one pass at most."""
Reply = tuple[int, ...]
Values = tuple[float | None, ...]
"""Log-probability of a whole reply per turn, in nats; ``None`` where it was not measured."""
Flags = tuple[bool | None, ...]
"""One answer per turn; ``None`` where it was not measured."""


class Scored(NamedTuple):
    """Scores of one reply."""

    logprob: float
    """Of the whole reply, in nats."""
    first: bool
    """Whether each of its tokens is the most likely one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Values of one wording."""

    wording: Wording
    logprobs: Mapping[Arm, Values]
    """Of the wanted reply; under :attr:`Arm.WRONG` of the wrong one."""
    first: Flags
    """Whether the hint makes the wanted reply the one of greedy decoding."""
    refused: str = ""
    """Reason why the chat template does not accept this wording."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement; all values are in the order of the turns."""

    episodes: tuple[int, ...]
    blamed: tuple[bool, ...]
    bare: Values
    """Log-probability of the wanted reply without hint."""
    bare_wrong: Values
    """The same of the wrong reply."""
    readings: tuple[Reading, ...]
    tokens: int
    """Number of tokens that were processed by the network."""
    seconds: float
    too_long: int
    """Number of rows that did not fit into the context."""


def measure(
    cases: Sequence[Case], templates: Mapping[Wording, HintTemplate], policy: Policy, arms: Sequence[Arm]
) -> Measured:
    """Score the replies of every turn without hint and under every wording.

    Args:
        cases: Turns.
        templates: The wordings.
        policy: Loaded; its present weights score, in evaluation mode.
        arms: What is tried.
    """
    started = time.monotonic()
    scorer = _Scorer(policy)
    refused: dict[Wording, str] = {}
    bare: list[float | None] = []
    bare_wrong: list[float | None] = []
    columns: dict[tuple[Wording, Arm], list[Scored | None]] = {(w, arm): [] for w in templates for arm in arms}
    for case in cases:
        asked: dict[tuple[Wording, Arm], tuple[Reply, Reply]] = {}
        for wording, arm in columns:
            reply = case.wrong if arm is Arm.WRONG else case.wanted
            if arm not in case.facts or reply is None or wording in refused:
                continue
            try:
                context = hinted_context(case, case.facts[arm], wording, templates[wording], policy.dialect)
            except (PolicyError, TokenAlignmentError) as error:
                refused[wording] = str(error)
            else:
                asked[wording, arm] = (context, reply)
        prompt = case.turn.prompt_ids
        pairs = [(prompt, case.wanted), *([(prompt, case.wrong)] if case.wrong else []), *asked.values()]
        scored = scorer(prompt, pairs)
        bare.append(_logprob(scored.get((prompt, case.wanted))))
        bare_wrong.append(_logprob(scored.get((prompt, case.wrong))) if case.wrong else None)
        for key, column in columns.items():
            column.append(scored.get(asked[key]) if key in asked else None)
    return Measured(
        tuple(case.episode for case in cases),
        tuple(case.blamed for case in cases),
        tuple(bare),
        tuple(bare_wrong),
        tuple(
            Reading(
                wording,
                {arm: tuple(map(_logprob, columns[wording, arm])) for arm in arms},
                tuple(one and one.first for one in columns.get((wording, Arm.HINT), [None] * len(cases))),
                refused.get(wording, ""),
            )
            for wording in templates
        ),
        scorer.tokens,
        time.monotonic() - started,
        scorer.too_long,
    )


def hinted_context(case: Case, facts: Facts, wording: Wording, template: HintTemplate, dialect: Dialect) -> Reply:
    """The context of a turn with a hint in it."""
    encoder = dialect.template.encoder
    text = template.render(lambda words: len(encoder.encode_untrusted(words)), dict(facts))
    return dialect.template.insert_hint(case.turn.prompt_ids, text, wording.position, case.turn.action_ids)


def over_ranks(measured: Measured) -> Measured:
    """Gather the turns of all processes, so that all choose the same wording."""
    parts = of_each(measured)
    return measured if len(parts) == 1 else joined(parts)


def joined(parts: Sequence[Measured]) -> Measured:
    """The same wordings on the turns of several processes, whose episodes are different ones."""
    many = max((episode for part in parts for episode in part.episodes), default=0) + 1
    return Measured(
        tuple(rank * many + episode for rank, part in enumerate(parts) for episode in part.episodes),
        tuple(flag for part in parts for flag in part.blamed),
        tuple(value for part in parts for value in part.bare),
        tuple(value for part in parts for value in part.bare_wrong),
        tuple(
            replace(
                reading,
                logprobs={
                    arm: tuple(value for part in parts for value in part.readings[i].logprobs[arm])
                    for arm in reading.logprobs
                },
                first=tuple(flag for part in parts for flag in part.readings[i].first),
                refused=next((part.readings[i].refused for part in parts if part.readings[i].refused), ""),
            )
            for i, reading in enumerate(parts[0].readings)
        ),
        sum(part.tokens for part in parts),
        max(part.seconds for part in parts),
        sum(part.too_long for part in parts),
    )


def reply_logprobs(policy: Policy, rows: Sequence[tuple[Reply, Reply]]) -> list[float]:
    """Log-probability, in nats, of each reply after its context, by the present weights.

    Args:
        policy: Loaded.
        rows: ``(context, reply)`` ids.
    """
    return [one.logprob for one in score_replies(policy, rows, LiveWeights())]


def score_replies(policy: Policy, rows: Sequence[tuple[Reply, Reply]], weights: TeacherWeights) -> list[Scored]:
    """Score each reply after its context.

    Args:
        policy: Loaded.
        rows: ``(context, reply)`` ids.
        weights: Which score.
    """
    scored = [ScoreRow(context + reply, ((len(context), len(context) + len(reply)),)) for context, reply in rows]
    if not scored:
        return []
    scores = weights.scores(policy, scored)
    ids = torch.tensor([i for _, reply in rows for i in reply], device=scores.values.device)
    log_probs, best = scores.of_actions_and_best(ids)
    sizes = [len(reply) for _, reply in rows]
    parts = zip(log_probs.split_with_sizes(sizes), (best == ids).split_with_sizes(sizes), strict=True)
    return [Scored(float(part.sum()), bool(first.all())) for part, first in parts]


def _logprob(scored: Scored | None) -> float | None:
    return None if scored is None else scored.logprob


class _Scorer:
    """Scores the rows of one turn at a time, and counts tokens."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.scorer, self.weights = BranchScorer(), LiveWeights()
        self.weights.scorer = self.scorer
        self.too_long = 0

    @property
    def tokens(self) -> int:
        """Tokens that went through the network."""
        return self.scorer.forwarded

    def __call__(self, prompt: Reply, pairs: Sequence[tuple[Reply, Reply]]) -> dict[tuple[Reply, Reply], Scored]:
        """Scores by ``(context, reply)``; each pair is scored once."""
        different = list(dict.fromkeys(pairs))
        fitting = [pair for pair in different if len(pair[0]) + len(pair[1]) <= self.policy.max_length]
        self.too_long += len(different) - len(fitting)
        scored: dict[tuple[Reply, Reply], Scored] = {}
        for part in _parts(fitting, len(prompt)):
            scored |= zip(part, score_replies(self.policy, part, self.weights), strict=True)
        return scored


def _parts(pairs: Sequence[tuple[Reply, Reply]], shared: int) -> Iterator[list[tuple[Reply, Reply]]]:
    """Pairs that are few enough for one pass (at least one)."""
    part: list[tuple[Reply, Reply]] = []
    new = scored = 0
    for context, reply in pairs:
        more = max(len(context) - shared, 0) + len(reply)
        if part and (new + more > NEW_TOKENS or scored + len(reply) > SCORED_TOKENS):
            yield part
            part, new, scored = [], 0, 0
        part.append((context, reply))
        new, scored = new + more, scored + len(reply)
    if part:
        yield part
