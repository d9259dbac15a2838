"""Measure how strongly the teacher responds to hints; this decreases when a moving teacher degrades.

A teacher that follows the student inherits what training overwrites, the reading of hints above all; the loss then
looks better while the signal is gone (algorithm brief, section 7). The probe keeps the first hinted turns of a run and
asks again and again how far the teacher's distribution under the true hint is from that under the hint of another turn,
and how likely the reply is that the hint wants: the short form of the measurement that ``hero_pl check-hints`` makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hero_pl.errors import ConfigError
from hero_pl.losses.base import action_log_probabilities
from hero_pl.losses.jensen_shannon import JensenShannon
from hero_pl.scalars import Scalar, share, total
from hero_pl.types import Hint, HintPosition, ScoreRow, Trajectory

if TYPE_CHECKING:
    from hero_pl.chat.dialect import Dialect
    from hero_pl.policy.base import Policy
    from hero_pl.teacher.weights import TeacherWeights


@dataclass(frozen=True, slots=True)
class Probed:
    """One turn of the set."""

    context: tuple[int, ...]
    """The decision context."""
    action: tuple[int, ...]
    wanted: tuple[int, ...] | None
    """The corrected action, or the one taken if it was called right; ``None`` if the teacher shows no verdict."""
    hint: str
    position: HintPosition | None


class HintProbe:
    """Mean divergence of the teacher between true and exchanged hints, on a fixed set of turns.

    Uses no random numbers and changes no weights, so a run is the same with and without it.

    Args:
        turns: Number of hinted turns, the first ones of the run. 0 switches the probe off.
        every: Training batches between two measurements, after the one that completed the set.
    """

    def __init__(self, turns: int, every: int) -> None:
        if turns < 0 or turns == 1 or every < 1:
            raise ConfigError(
                f"probe_turns={turns}, probe_every={every}: expected 0 (off) or at least 2 turns, whose hints are "
                "exchanged, and at least 1 batch."
            )
        self.size, self.every = turns, every
        self.turns: list[Probed] = []
        self.batches = 0
        """Number of training batches since the set was complete."""
        self._distance = JensenShannon()  # at most ln 2; independent of the divergence of the run

    def step(
        self,
        trajectories: Sequence[Trajectory],
        hints: Sequence[Sequence[Hint | None]],
        policy: Policy,
        weights: TeacherWeights,
    ) -> dict[str, Scalar]:
        """Process one training batch; measure if due.

        Args:
            trajectories: One rollout batch.
            hints: One or none per turn.
            policy: Policy with the weights of this step.
            weights: Weights of the teacher.

        Returns:
            ``teacher/hint_sensitivity`` (nats, at most ln 2), ``teacher/hinted_logprob`` (of the wanted reply, mean
            over turns), ``teacher/hint_gain`` (by how much that is more than without hint), ``teacher/probe_turns``
            (turns that took part) and ``teacher/probe_tokens`` (tokens scored by it); without a measurement only the
            last, which is 0 then.
        """
        if len(self.turns) < self.size:
            self._fill(trajectories, hints, policy.dialect)
            due = len(self.turns) == self.size
        else:
            self.batches += 1
            due = self.batches % self.every == 0
        if not self.size:
            return {}
        return self._measure(policy, weights) if due else {"teacher/probe_tokens": total(0)}

    def _fill(
        self, trajectories: Sequence[Trajectory], hints: Sequence[Sequence[Hint | None]], dialect: Dialect
    ) -> None:
        for trajectory, given in zip(trajectories, hints, strict=True):
            for turn, hint in zip(trajectory.turns, given, strict=True):
                if hint is None or not hint.text or len(self.turns) == self.size:
                    continue
                wanted = None if hint.target is None else turn.action_ids
                if hint.target:
                    wanted = dialect.reply_ids(hint.target)
                self.turns.append(Probed(turn.prompt_ids, turn.action_ids, wanted, hint.text, hint.position))

    def _measure(self, policy: Policy, weights: TeacherWeights) -> dict[str, Scalar]:
        """Score the turns of one conversation at a time, to share their contexts and to limit the memory for logits."""
        distance, tokens, scored, taken = 0.0, 0, 0, 0
        wanted: list[tuple[float, float]] = []
        for group in _conversations(self.turns):
            rows_of = {i: self._rows(i, policy.dialect) for i in group}
            rows_of = {i: rows for i, rows in rows_of.items() if rows and _longest(rows) <= policy.max_length}
            if not rows_of:
                continue
            scores = weights.scores(policy, [row for rows in rows_of.values() for row in rows])
            place = 0
            for i, rows in rows_of.items():
                turn, sizes = self.turns[i], [row.scored for row in rows]
                logits = scores.logits(slice(place, place + sum(sizes)))
                true, exchanged, *of_wanted = logits.split_with_sizes(sizes)
                place += sum(sizes)
                distance += float(self._distance(true, exchanged).sum())
                if turn.wanted is not None:
                    with_hint, without = (_logprob(part, turn.wanted) for part in of_wanted)
                    wanted.append((with_hint, with_hint - without))
                tokens += sum(len(row.ids) for row in rows)
                scored += len(turn.action)
                taken += 1
        measured = {"teacher/probe_turns": total(taken), "teacher/probe_tokens": total(tokens)}
        if scored:
            measured["teacher/hint_sensitivity"] = share(distance, scored)
        if wanted:
            measured["teacher/hinted_logprob"] = share(sum(likely for likely, _ in wanted), len(wanted))
            measured["teacher/hint_gain"] = share(sum(gain for _, gain in wanted), len(wanted))
        return measured

    def _rows(self, i: int, dialect: Dialect) -> list[ScoreRow]:
        """The action under the true and the exchanged hint, and the wanted reply with and without its hint."""
        turn, other = self.turns[i], self._other_hint(i)
        if other is None:
            return []
        rows = [_row(dialect, turn, hint, turn.action) for hint in (turn.hint, other)]
        if turn.wanted is not None:
            rows += [_row(dialect, turn, hint, turn.wanted) for hint in (turn.hint, "")]
        return rows

    def _other_hint(self, i: int) -> str | None:
        """The hint of the next turn (cyclic) with another text, preferably for another reply."""
        own = self.turns[i]
        others = [turn for turn in (*self.turns[i + 1 :], *self.turns[:i]) if turn.hint != own.hint]
        return next((turn.hint for turn in others if turn.wanted != own.wanted), others[0].hint if others else None)

    def state_dict(self) -> dict[str, Any]:
        """The set and the counter."""
        return {"turns": [asdict(turn) for turn in self.turns], "batches": self.batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.turns = [Probed(**turn) for turn in state["turns"]]
        self.batches = int(state["batches"])


def _conversations(turns: Sequence[Probed]) -> list[list[int]]:
    """Numbers of the turns, grouped by the conversation they are of."""
    groups: list[list[int]] = []
    for i, turn in enumerate(turns):
        before = turns[groups[-1][-1]].context if groups else ()
        if groups and turn.context[: len(before)] == before:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _longest(rows: Sequence[ScoreRow]) -> int:
    return max(len(row.ids) for row in rows)


def _row(dialect: Dialect, turn: Probed, hint: str, reply: tuple[int, ...]) -> ScoreRow:
    spliced = dialect.template.insert_hint(turn.context, hint, turn.position, turn.action)
    return ScoreRow((*spliced, *reply), ((len(spliced), len(spliced) + len(reply)),))


def _logprob(logits: Tensor, reply: tuple[int, ...]) -> float:
    return float(action_log_probabilities(logits, torch.tensor(reply, device=logits.device)).sum())
