"""How strongly the teacher reacts to hints: the number that falls when a moving teacher has lost them.

A teacher that follows the student inherits what training overwrites, the reading of hints above all; the loss then
looks better while the signal is gone (algorithm brief, section 7). The probe keeps the first hinted turns of a run and
asks again and again how far the teacher's distribution under the true hint is from that under the hint of another turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hero_pl.errors import ConfigError
from hero_pl.losses.jensen_shannon import JensenShannon
from hero_pl.policy.base import ScoreRow
from hero_pl.scalars import Scalar, share, total
from hero_pl.types import Hint, Trajectory

if TYPE_CHECKING:
    from hero_pl.policy.base import Policy
    from hero_pl.teacher.weights import TeacherWeights

Turn = tuple[tuple[int, ...], tuple[int, ...], str]
"""Decision context, action ids, hint."""


class HintProbe:
    """Mean divergence of the teacher under true and under exchanged hints, on turns that stay the same.

    Draws no random numbers and changes no weights, so a run is the same with and without it.

    Args:
        turns: Hinted turns to keep: the first ones of the run. 0 switches the probe off.
        every: Training batches between two measurements, after the one that completed the set.
    """

    def __init__(self, turns: int, every: int) -> None:
        if turns < 0 or turns == 1 or every < 1:
            raise ConfigError(
                f"probe_turns={turns}, probe_every={every}: expected 0 (off) or at least 2 turns, whose hints are "
                "exchanged, and at least 1 batch."
            )
        self.size, self.every = turns, every
        self.turns: list[Turn] = []
        self.batches = 0
        """Training batches since the set was complete."""
        self._distance = JensenShannon()  # at most ln 2, whatever divergence the run is trained with

    def step(
        self,
        trajectories: Sequence[Trajectory],
        hints: Sequence[Sequence[Hint | None]],
        policy: Policy,
        weights: TeacherWeights,
    ) -> dict[str, Scalar]:
        """Take in one training batch; measure if it is time.

        Args:
            trajectories: One rollout batch.
            hints: One or none per turn.
            policy: With the weights of this step.
            weights: The teacher's.

        Returns:
            ``teacher/hint_sensitivity`` (nats, at most ln 2), ``teacher/probe_turns`` (turns that took part) and
            ``teacher/probe_tokens`` (tokens scored by it); without a measurement only the last, which is 0 then.
        """
        if len(self.turns) < self.size:
            self._fill(trajectories, hints)
            due = len(self.turns) == self.size
        else:
            self.batches += 1
            due = self.batches % self.every == 0
        if not self.size:
            return {}
        return self._measure(policy, weights) if due else {"teacher/probe_tokens": total(0)}

    def _fill(self, trajectories: Sequence[Trajectory], hints: Sequence[Sequence[Hint | None]]) -> None:
        for trajectory, given in zip(trajectories, hints, strict=True):
            for turn, hint in zip(trajectory.turns, given, strict=True):
                if hint is not None and hint.text and len(self.turns) < self.size:
                    self.turns.append((turn.prompt_ids, turn.action_ids, hint.text))

    def _measure(self, policy: Policy, weights: TeacherWeights) -> dict[str, Scalar]:
        """Two rows at a time, so that the logits of the whole set never exist at once."""
        distance, tokens, scored, taken = 0.0, 0, 0, 0
        for i, (context, action, hint) in enumerate(self.turns):
            other = self._other_hint(i)
            if other is None:
                continue
            rows = [_row(policy, context, action, text) for text in (hint, other)]
            if max(len(row.ids) for row in rows) > policy.max_length:
                continue
            true, exchanged = weights.score(policy, rows).chunk(2)
            distance += float(self._distance(true, exchanged).sum())
            tokens += sum(len(row.ids) for row in rows)
            scored += len(action)
            taken += 1
        cost = {"teacher/probe_turns": total(taken), "teacher/probe_tokens": total(tokens)}
        return {"teacher/hint_sensitivity": share(distance, scored), **cost} if scored else cost

    def _other_hint(self, i: int) -> str | None:
        """The hint of the next turn, in a circle, that says something else."""
        own = self.turns[i][2]
        following = [*self.turns[i + 1 :], *self.turns[:i]]
        return next((text for _, _, text in following if text != own), None)

    def state_dict(self) -> dict[str, Any]:
        """The set and the counter."""
        return {"turns": self.turns, "batches": self.batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the set of the saved run."""
        self.turns = [(tuple(context), tuple(action), str(hint)) for context, action, hint in state["turns"]]
        self.batches = int(state["batches"])


def _row(policy: Policy, context: tuple[int, ...], action: tuple[int, ...], hint: str) -> ScoreRow:
    spliced = policy.template.insert_hint(context, hint)
    return ScoreRow((*spliced, *action), ((len(spliced), len(spliced) + len(action)),))
