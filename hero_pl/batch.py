"""Trajectories and hints become ids to score: both sides of every action, flat over action tokens.

Student and teacher score the *same* sampled ids in two contexts. That is asserted here for every turn of every batch;
it is an integer comparison and costs nothing. Consecutive turns share one student row wherever the next decision
context starts with the previous one and its action, so a trajectory is one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hero_pl.errors import TokenAlignmentError
from hero_pl.losses.normalize import Normalization, coefficients
from hero_pl.policy.base import Policy, ScoreRow
from hero_pl.types import Hint, Trajectory, Turn

ReduceSum = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class TokenizedBatch:
    """Action tokens of one optimizer step (or of one micro-batch of it); ``N`` of them, in the order of the rows."""

    student: tuple[ScoreRow, ...]
    teacher: tuple[ScoreRow, ...]
    """One row per hinted turn, the same action ids in the same order; empty if there is no teacher."""
    action_ids: Tensor
    """``(N,)`` sampled ids."""
    rollout_logprobs: Tensor
    """``(N,)`` log-probabilities recorded when they were sampled, in nats."""
    row: Tensor
    """``(N,)`` number of the trajectory."""
    turn: Tensor
    """``(N,)`` number of the turn, unique over the batch."""
    coefficient: Tensor
    """``(N,)`` the step's loss is ``sum(coefficient * per_token)``, over all micro-batches and ranks."""
    advantage: Tensor
    """``(N,)`` advantage of the token's trajectory; zero without policy gradient."""
    student_of_row: tuple[int, ...] = ()
    """Trajectory of each student row."""
    teacher_of_row: tuple[int, ...] = ()
    """Trajectory of each teacher row."""
    places: tuple[tuple[int, int], ...] = ()
    """``(trajectory, turn number)`` of every turn number in ``turn``."""
    counters: dict[str, float] = field(default_factory=dict)
    """What was left out, and why."""

    def __len__(self) -> int:
        return int(self.action_ids.numel())

    def split(self, max_tokens: int) -> Iterator[TokenizedBatch]:
        """Micro-batches of whole trajectories with at most ``max_tokens`` tokens in their rows (at least one each)."""
        cost: dict[int, int] = {}
        for rows, owners in ((self.student, self.student_of_row), (self.teacher, self.teacher_of_row)):
            for row, owner in zip(rows, owners, strict=True):
                cost[owner] = cost.get(owner, 0) + len(row.ids)
        wanted: list[int] = []
        used = 0
        for owner in sorted(cost):
            if wanted and used + cost[owner] > max_tokens:
                yield self._of(wanted)
                wanted, used = [], 0
            wanted.append(owner)
            used += cost[owner]
        if wanted:
            yield self._of(wanted)

    def _of(self, owners: Sequence[int]) -> TokenizedBatch:
        chosen = set(owners)
        keep = torch.isin(self.row, torch.tensor(sorted(chosen), device=self.row.device))
        pick = {
            name: getattr(self, name)[keep]
            for name in ("action_ids", "rollout_logprobs", "row", "turn", "coefficient", "advantage")
        }
        students = [(r, o) for r, o in zip(self.student, self.student_of_row, strict=True) if o in chosen]
        teachers = [(r, o) for r, o in zip(self.teacher, self.teacher_of_row, strict=True) if o in chosen]
        return TokenizedBatch(
            student=tuple(r for r, _ in students),
            teacher=tuple(r for r, _ in teachers),
            student_of_row=tuple(o for _, o in students),
            teacher_of_row=tuple(o for _, o in teachers),
            places=self.places,
            **pick,
        )


def tokenize(
    trajectories: Sequence[Trajectory],
    hints: Sequence[Sequence[Hint | None]] | None,
    policy: Policy,
    normalize: Normalization | str = Normalization.TOKEN_MEAN,
    *,
    weight: Callable[[int, Turn, Hint | None], float] = lambda row, turn, hint: 1.0,
    advantage: Sequence[float] | None = None,
    constant: float | None = None,
    reduce_sum: ReduceSum = lambda local: local,
    device: torch.device | None = None,
) -> TokenizedBatch:
    """Lay out one optimizer step.

    Args:
        trajectories: One rollout batch.
        hints: Per trajectory and turn; ``None`` takes the turn out of the loss. ``None`` for all: no teacher, and every
            turn counts.
        policy: For its chat template and context length.
        normalize: See :class:`~hero_pl.losses.normalize.Normalization`.
        weight: Weight of a turn; a turn of weight 0 leaves the loss and its denominator.
        advantage: One per trajectory.
        constant: For ``seq_mean_token_sum_norm``.
        reduce_sum: Sums the outermost denominator over ranks; called exactly once.
        device: Of the tensors.

    Raises:
        TokenAlignmentError: Student and teacher would score different ids.
    """
    layout = _Layout(policy)
    for i, trajectory in enumerate(trajectories):
        for j, turn in enumerate(trajectory.turns):
            hint = hints[i][j] if hints is not None else None
            if hints is not None and hint is None:
                continue
            scale = weight(i, turn, hint)
            if scale > 0.0:
                layout.add(i, trajectory, turn, hint, scale)
    layout.close_rows()
    row, number = layout.tensor(layout.row, device), layout.tensor(layout.turn, device)
    scales = torch.tensor(layout.scale, dtype=torch.float32, device=device)
    per_row = torch.tensor(list(advantage) if advantage is not None else [0.0] * len(trajectories), device=device)
    return TokenizedBatch(
        student=tuple(layout.student),
        teacher=tuple(layout.teacher),
        student_of_row=tuple(layout.student_of_row),
        teacher_of_row=tuple(layout.teacher_of_row),
        action_ids=layout.tensor(layout.ids, device),
        rollout_logprobs=torch.tensor(layout.logprobs, dtype=torch.float32, device=device),
        row=row,
        turn=number,
        coefficient=coefficients(
            normalize,
            turn=number,
            row=row,
            weight=scales,
            rows=len(trajectories),
            constant=constant,
            reduce_sum=reduce_sum,
        ),
        advantage=per_row.float()[row] if len(trajectories) else torch.zeros(0, device=device),
        places=tuple(layout.places),
        counters=layout.counters,
    )


class _Layout:
    """Rows and flat token lists under construction."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.student: list[ScoreRow] = []
        self.teacher: list[ScoreRow] = []
        self.student_of_row: list[int] = []
        self.teacher_of_row: list[int] = []
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.row: list[int] = []
        self.turn: list[int] = []
        self.scale: list[float] = []
        self.places: list[tuple[int, int]] = []
        self.counters: dict[str, float] = {"teacher/overflow_turns": 0.0}
        self._open: tuple[int, tuple[int, ...], list[tuple[int, int]]] | None = None

    def add(self, i: int, trajectory: Trajectory, turn: Turn, hint: Hint | None, scale: float) -> None:
        """Add one turn of trajectory ``i`` to both sides."""
        context, action = turn.prompt_ids, turn.action_ids
        if hint is not None:
            spliced = self.policy.template.splice(context, hint.text)
            if len(spliced) + len(action) > self.policy.max_length:
                self.counters["teacher/overflow_turns"] += 1.0  # never cut: the teacher would lose the task
                return
            row = ScoreRow(spliced + action, ((len(spliced), len(spliced) + len(action)),), i)
            check_alignment(trajectory, turn, row)
            self.teacher.append(row)
            self.teacher_of_row.append(i)
        whole = context + action
        span = (len(context), len(whole))
        if self._open is not None and self._open[0] == i and context[: len(self._open[1])] == self._open[1]:
            self._open = (i, whole, [*self._open[2], span])
        else:  # another trajectory, or a template that rewrote the history: a new row
            self.close_rows()
            self._open = (i, whole, [span])
        self.ids += action
        self.logprobs += turn.action_logprobs
        self.row += [i] * len(action)
        self.turn += [len(self.places)] * len(action)
        self.scale += [scale] * len(action)
        self.places.append((i, turn.number))

    def close_rows(self) -> None:
        """Finish the student row that is being extended."""
        if self._open is not None:
            i, ids, spans = self._open
            self.student.append(ScoreRow(ids, tuple(spans)))
            self.student_of_row.append(i)
            self._open = None

    @staticmethod
    def tensor(values: list[int], device: torch.device | None) -> Tensor:
        """Integers as a tensor."""
        return torch.tensor(values, dtype=torch.long, device=device)


def check_alignment(trajectory: Trajectory, turn: Turn, row: ScoreRow) -> None:
    """Both sides must score the sampled ids, and nothing else.

    Raises:
        TokenAlignmentError: They would not; names task, turn and position.
    """
    scored = [token for start, stop in row.spans for token in row.ids[start:stop]]
    if tuple(scored) == turn.action_ids:
        return
    same = next((k for k, (a, b) in enumerate(zip(turn.action_ids, scored, strict=False)) if a != b), len(scored))
    raise TokenAlignmentError(
        f"Task {trajectory.task_id}, turn {turn.number}: teacher and student would score different tokens (first "
        f"difference at position {same} of {len(turn.action_ids)}). Both sides must score the sampled ids. Do not "
        "re-encode the reply; splice Turn.action_ids after the context."
    )
