"""Convert trajectories and hints to token ids to score: both sides of every action, flat over action tokens.

Student and teacher score the *same* sampled ids in two contexts. That is asserted here for every turn of every batch;
it is an integer comparison and costs nothing. Consecutive turns share one student row wherever the next decision
context starts with the previous one and its action, so a trajectory is one forward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from hero_pl.chat.dialect import Dialect
from hero_pl.errors import TokenAlignmentError
from hero_pl.losses.normalize import Mode, Normalization, coefficients
from hero_pl.losses.scores import Scores
from hero_pl.policy.branches import forwarded_tokens
from hero_pl.policy.network import Trunk
from hero_pl.types import Hint, ScoreRow, Trajectory, Turn

ReduceSum = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class TokenizedBatch:
    """Action tokens of one optimizer step (or of one micro-batch of it); ``N`` of them, in the order of the rows.

    Every field with the type ``Tensor`` (or ``Tensor | None``) has one entry per token, and is split by tokens.
    """

    student: tuple[ScoreRow, ...]
    teacher: tuple[ScoreRow, ...]
    """One row per hinted turn, the same action ids in the same order; empty if there is no teacher."""
    action_ids: Tensor
    """``(N,)`` sampled ids."""
    rollout_logprobs: Tensor
    """``(N,)`` log-probabilities in nats, recorded during sampling."""
    trajectory: Tensor
    """``(N,)`` number of the trajectory in the rollout batch, as in :attr:`ScoreRow.trajectory`."""
    turn: Tensor
    """``(N,)`` number of the turn, unique in the batch: an index into ``turn_numbers``."""
    position: Tensor
    """``(N,)`` index of the token in the ``action_ids`` of its turn, from 0."""
    teacher_mask: Tensor
    """``(N,)`` bool: the teacher scores the token, too."""
    coefficient: Tensor
    """``(N,)`` the step's loss is ``sum(coefficient * per_token)``, over all micro-batches and ranks."""
    policy_coefficient: Tensor
    """``(N,)`` the same for the policy-gradient term, if there is one in addition to the teacher's loss."""
    advantage: Tensor
    """``(N,)`` advantage of the token's trajectory; zero without policy gradient."""
    negative_rows: tuple[tuple[ScoreRow, ...], ...] = ()
    """The teacher's rows with the hints of other turns, once or more; empty unless a gate needs them."""
    turn_numbers: tuple[int, ...] = ()
    """:attr:`Turn.number` of every turn in ``turn``."""
    scaffold_rows: tuple[tuple[ScoreRow, ...], ...] = ()
    """The teacher's rows with the empty scaffold and without a hint; empty unless ``scaffold: subtract``."""
    temperature: float = 1.0
    """Temperature at which the actions were sampled; see :meth:`tempered`."""
    teacher_shares: bool = False
    """The teacher's rows of a trajectory share a pass (:mod:`hero_pl.policy.branches`), and cost that much less."""
    teacher_borrows: bool = False
    """They run on the keys and values of the student's rows, and cost even less."""
    teacher_trunks: tuple[Trunk, ...] = ()
    """Trajectories that the teacher's weights have run before, whose keys and values its rows run on."""
    counters: dict[str, int] = field(default_factory=dict)
    """Counts of turns that are not in the loss: no hint, weight 0, no id in scope, or too long with the hint."""

    def __len__(self) -> int:
        return int(self.action_ids.numel())

    def split(self, max_tokens: int) -> Iterator[TokenizedBatch]:
        """Micro-batches of whole trajectories with at most ``max_tokens`` tokens to run, or a single trajectory."""
        cost: Counter[int] = Counter()
        for row in self.student:
            cost[row.trajectory] += len(row.ids)
        trunks = _by_trajectory(self.student if self.teacher_borrows else [trunk.row for trunk in self.teacher_trunks])
        for side in (self.teacher, *self.negative_rows, *self.scaffold_rows):
            for trajectory, rows in _by_trajectory(side).items():
                shared = forwarded_tokens(rows, trunks.get(trajectory, ())) if self.teacher_shares else 0
                cost[trajectory] += shared or sum(len(row.ids) for row in rows)
        wanted: list[int] = []
        used = 0
        for trajectory in sorted(cost):
            if wanted and used + cost[trajectory] > max_tokens:
                yield self.of(wanted)
                wanted, used = [], 0
            wanted.append(trajectory)
            used += cost[trajectory]
        if wanted:
            yield self.of(wanted)

    def tempered(self, scores: Scores, factor: float = 1.0) -> Scores:
        """Scores at the sampling temperature. All comparisons of student, teacher and rollout use these.

        Args:
            scores: Of any tokens.
            factor: Another factor of the temperature, for a teacher that is sharper (below 1) or softer.
        """
        return replace(scores, temperature=factor * self.temperature)

    def teacher_scored(self) -> TokenizedBatch:
        """The tokens that the teacher scores, in the teacher's order; ``student`` still has all rows."""
        return replace(self, **self._tokens(self.teacher_mask))

    def of(self, trajectories: Sequence[int]) -> TokenizedBatch:
        """The tokens of some trajectories only; coefficients stay those of the whole batch."""
        keep = torch.isin(self.trajectory, torch.tensor(trajectories, device=self.trajectory.device))

        def rows(side: Sequence[ScoreRow]) -> tuple[ScoreRow, ...]:
            return tuple(row for row in side if row.trajectory in trajectories)

        return replace(
            self,
            student=rows(self.student),
            teacher=rows(self.teacher),
            negative_rows=tuple(map(rows, self.negative_rows)),
            scaffold_rows=tuple(map(rows, self.scaffold_rows)),
            teacher_trunks=tuple(trunk for trunk in self.teacher_trunks if trunk.row.trajectory in trajectories),
            counters={},
            **self._tokens(keep),
        )

    def _tokens(self, keep: Tensor) -> dict[str, Any]:
        tensors = {name: getattr(self, name) for name in _tensor_fields(type(self))}
        return {name: None if value is None else value[keep] for name, value in tensors.items()}


def _by_trajectory(side: Sequence[ScoreRow]) -> dict[int, list[ScoreRow]]:
    by_number: dict[int, list[ScoreRow]] = {}
    for row in side:
        by_number.setdefault(row.trajectory, []).append(row)
    return by_number


def _tensor_fields(batch: type[TokenizedBatch]) -> tuple[str, ...]:
    hints = get_type_hints(batch)
    return tuple(f.name for f in fields(batch) if Tensor in (hints[f.name], *get_args(hints[f.name])))


@dataclass(frozen=True, slots=True)
class PolicyTerm:
    """A policy-gradient term over all turns, with or without a hint. It has its own mask and its own denominator."""

    advantage: Sequence[float]
    """One per trajectory."""
    weight: Sequence[float]
    """One per trajectory; a trajectory of weight 0 leaves the term and its denominator."""
    normalize: Mode = Normalization.TOKEN_MEAN
    constant: float | None = None
    """For ``seq_mean_token_sum_norm``."""
    teacher_only: bool = False
    """Only tokens that the teacher scores count."""


def whole_action(turn: Turn) -> tuple[int, int]:
    """Every sampled id of a turn."""
    return 0, len(turn.action_ids)


def tokenize(
    trajectories: Sequence[Trajectory],
    hints: Sequence[Sequence[Hint | None]] | None,
    dialect: Dialect,
    normalize: Mode = Normalization.TOKEN_MEAN,
    *,
    weight: Callable[[int, Turn, Hint | None], float] = lambda i, turn, hint: 1.0,
    advantage: Sequence[float] | None = None,
    constant: float | None = None,
    scope: Callable[[Turn], tuple[int, int]] = whole_action,
    negative_hints: Sequence[Sequence[Sequence[str]]] = (),
    with_scaffold: bool = False,
    policy_term: PolicyTerm | None = None,
    reduce_sum: ReduceSum = lambda local: local,
    device: torch.device | None = None,
) -> TokenizedBatch:
    """Lay out one optimizer step.

    Args:
        trajectories: One rollout batch.
        hints: Per trajectory and turn; ``None`` takes the turn out of the loss. ``None`` for all: no teacher, and every
            turn counts.
        dialect: Dialect of the policy that sampled the actions and is trained.
        normalize: See :class:`~hero_pl.losses.normalize.Normalization`; several with their shares are summed.
        weight: Weight of a turn; a turn of weight 0 leaves the loss and its denominator.
        advantage: One per trajectory; ``policy_term`` has its own.
        constant: For ``seq_mean_token_sum_norm``.
        scope: Start and end (exclusive) of the sampled ids that count; an empty range drops the turn.
        negative_hints: Hint texts of other turns, each in the layout of ``hints``.
        with_scaffold: Also lay out the teacher's rows with the empty scaffold of their hints, and without a hint.
        policy_term: Adds all turns to the student's side, with separate coefficients.
        reduce_sum: Sums the outermost denominator over ranks; called exactly once per term and normalization.
        device: Device of the tensors.

    Raises:
        TokenAlignmentError: Student and teacher would score different ids.
    """
    layout = _Layout(dialect, scope, with_scaffold)
    for i, trajectory in enumerate(trajectories):
        for j, turn in enumerate(trajectory.turns):
            hint = hints[i][j] if hints is not None else None
            unhinted = hints is not None and hint is None
            scale = 0.0 if unhinted else weight(i, turn, hint)
            layout.counters["hero/unhinted_turns"] += unhinted
            layout.counters["hero/unweighted_turns"] += not unhinted and scale <= 0.0
            share = policy_term.weight[i] if policy_term is not None else 0.0
            if scale > 0.0 or share > 0.0:
                others = [texts[i][j] for texts in negative_hints]
                layout.add(i, trajectory, turn, hint if scale > 0.0 else None, scale, share, others)
    layout.close_rows()
    owner, number = layout.tensor(layout.trajectory, device), layout.tensor(layout.turn, device)
    scales = torch.tensor(layout.scale, dtype=torch.float32, device=device)
    shares = torch.tensor(layout.share, dtype=torch.float32, device=device)
    teacher_mask = torch.tensor(layout.teacher_mask, dtype=torch.bool, device=device)
    where: Any = {"turn": number, "trajectory": owner, "num_trajectories": len(trajectories), "reduce_sum": reduce_sum}
    of_policy = torch.zeros_like(shares)
    if policy_term is not None:
        advantage = policy_term.advantage
        counted = (shares > 0.0) & teacher_mask if policy_term.teacher_only else shares > 0.0
        of_policy = coefficients(
            policy_term.normalize, weight=shares, mask=counted, constant=policy_term.constant, **where
        )
    each = list(advantage) if advantage is not None else [0.0] * len(trajectories)
    advantages = torch.tensor(each, dtype=torch.float32, device=device)
    return TokenizedBatch(
        student=tuple(layout.student),
        teacher=tuple(layout.teacher),
        negative_rows=tuple(tuple(rows) for rows in zip(*layout.negative_rows, strict=True)),
        scaffold_rows=tuple(tuple(rows) for rows in zip(*layout.scaffold_rows, strict=True)),
        action_ids=layout.tensor(layout.ids, device),
        rollout_logprobs=torch.tensor(layout.logprobs, dtype=torch.float32, device=device),
        trajectory=owner,
        turn=number,
        position=layout.tensor(layout.position, device),
        teacher_mask=teacher_mask,
        coefficient=coefficients(normalize, weight=scales, mask=scales > 0.0, constant=constant, **where),
        policy_coefficient=of_policy,
        advantage=advantages[owner] if len(trajectories) else advantages,
        turn_numbers=tuple(layout.turn_numbers),
        temperature=_temperature(trajectories),
        counters=layout.counters,
    )


def _temperature(trajectories: Sequence[Trajectory]) -> float:
    """The sampling temperature of a batch.

    Raises:
        TokenAlignmentError: There are several, so recorded and new log-probabilities cannot be compared.
    """
    temperatures = sorted({trajectory.temperature for trajectory in trajectories})
    if len(temperatures) > 1:
        raise TokenAlignmentError(
            f"One batch has episodes that were sampled at the temperatures {temperatures}. Split the batch."
        )
    return temperatures[0] if temperatures else 1.0


class _Layout:
    """Rows and flat token lists, while they are built."""

    def __init__(self, dialect: Dialect, scope: Callable[[Turn], tuple[int, int]], with_scaffold: bool) -> None:
        self.dialect, self.scope, self.with_scaffold = dialect, scope, with_scaffold
        self.student: list[ScoreRow] = []
        self.teacher: list[ScoreRow] = []
        self.negative_rows: list[list[ScoreRow]] = []
        self.scaffold_rows: list[list[ScoreRow]] = []
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.trajectory: list[int] = []
        self.turn: list[int] = []
        self.position: list[int] = []
        self.teacher_mask: list[bool] = []
        self.scale: list[float] = []
        self.share: list[float] = []
        self.turn_numbers: list[int] = []
        self.counters = dict.fromkeys(
            ("hero/unhinted_turns", "hero/unweighted_turns", "hero/out_of_scope_turns", "teacher/overflow_turns"), 0
        )
        self._open: tuple[int, tuple[int, ...], list[tuple[int, int]]] | None = None

    def add(
        self,
        i: int,
        trajectory: Trajectory,
        turn: Turn,
        hint: Hint | None,
        scale: float,
        share: float,
        negative_hints: Sequence[str],
    ) -> None:
        """Add one turn of trajectory ``i`` to both sides."""
        start, stop = self.scope(turn)
        if scale > 0.0 and stop <= start:
            self.counters["hero/out_of_scope_turns"] += 1
            scale = 0.0
        if (
            hint is not None
            and scale > 0.0
            and not self._teach(i, trajectory, turn, hint, negative_hints, (start, stop))
        ):
            self.counters["teacher/overflow_turns"] += 1
            scale = 0.0
        if share > 0.0:
            first, last = whole_action(turn)
        elif scale > 0.0:
            first, last = start, stop
        else:
            return
        context, action = turn.prompt_ids, turn.action_ids
        whole = context + action
        span = (len(context) + first, len(context) + last)
        if self._open is not None and self._open[0] == i and context[: len(self._open[1])] == self._open[1]:
            self._open = (i, whole, [*self._open[2], span])
        else:  # another trajectory, or a template that rewrote the history: a new row
            self.close_rows()
            self._open = (i, whole, [span])
        counted = [scale > 0.0 and start <= place < stop for place in range(first, last)]
        self.ids += action[first:last]
        self.logprobs += turn.action_logprobs[first:last]
        self.trajectory += [i] * (last - first)
        self.turn += [len(self.turn_numbers)] * (last - first)
        self.position += range(first, last)
        self.teacher_mask += [inside and hint is not None for inside in counted]
        self.scale += [scale if inside else 0.0 for inside in counted]
        self.share += [share] * (last - first)
        self.turn_numbers.append(turn.number)

    def _teach(
        self,
        i: int,
        trajectory: Trajectory,
        turn: Turn,
        hint: Hint,
        negative_hints: Sequence[str],
        span: tuple[int, int],
    ) -> bool:
        """Add the teacher's row of a turn, unless it does not fit: a cut context would lose the task."""
        row, limit = self._teacher_row(i, turn, hint.text, span, hint), self.dialect.max_length
        if len(row.ids) > limit:
            return False
        check_alignment(trajectory, turn, row, span)
        if self.with_scaffold:  # a wording may be longer without content
            scaffold = self._teacher_row(i, turn, hint.scaffold or "", span, hint)
            if len(scaffold.ids) > limit:
                return False
            self.scaffold_rows.append([scaffold, self._teacher_row(i, turn, "", span, hint)])
        others = [self._teacher_row(i, turn, text, span, hint) for text in negative_hints]
        # another turn's hint may be too long for this one: then that negative is the row without a hint
        fitting = [r if len(r.ids) <= limit else self._teacher_row(i, turn, "", span, hint) for r in others]
        self.teacher.append(row)
        self.negative_rows.append(fitting)
        return True

    def _teacher_row(self, i: int, turn: Turn, text: str, span: tuple[int, int], hint: Hint) -> ScoreRow:
        """The row of a turn with ``text`` in place of ``hint``."""
        spliced = self.dialect.template.insert_hint(turn.prompt_ids, text, hint.position, turn.action_ids)
        start, stop = len(spliced) + span[0], len(spliced) + span[1]
        return ScoreRow(spliced + turn.action_ids[: span[1]], ((start, stop),), i)

    def close_rows(self) -> None:
        """Finish the student row that is being extended."""
        if self._open is not None:
            i, ids, spans = self._open
            scored = [token for start, stop in spans for token in ids[start:stop]]
            if scored != self.ids[-len(scored) :]:
                raise TokenAlignmentError(
                    f"Trajectory {i} of the batch: the student would score other ids than sampled."
                )
            self.student.append(ScoreRow(ids, tuple(spans), i))
            self._open = None

    @staticmethod
    def tensor(values: list[int], device: torch.device | None) -> Tensor:
        """Integers as a tensor."""
        return torch.tensor(values, dtype=torch.long, device=device)


def check_alignment(trajectory: Trajectory, turn: Turn, row: ScoreRow, span: tuple[int, int] | None = None) -> None:
    """Check that both sides score the sampled ids, or the same part of them, and nothing else.

    Raises:
        TokenAlignmentError: They would not; the message has task, turn and position.
    """
    scored = [token for start, stop in row.spans for token in row.ids[start:stop]]
    wanted = turn.action_ids[slice(*span)] if span else turn.action_ids
    if tuple(scored) == wanted:
        return
    same = next((k for k, (a, b) in enumerate(zip(wanted, scored, strict=False)) if a != b), len(scored))
    raise TokenAlignmentError(
        f"Task {trajectory.task_id}, turn {turn.number}: teacher and student would score different tokens (first "
        f"difference at position {same} of {len(wanted)}). Both sides must score the sampled ids. Do not "
        "re-encode the reply; splice Turn.action_ids after the context."
    )
